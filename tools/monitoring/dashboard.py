"""The Grafana dashboard: an overview row, then rows to find the cause of a problem.

Panels aggregate over pods, and those per pod show only the top ten, so the dashboard reads the same for one pod and for
hundreds.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.common import BigValueTextMode, TimeZoneBrowser
from grafana_foundation_sdk.models.dashboard import Dashboard as DashboardModel
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from tools.monitoring.panels import (
    BLUE,
    DATASOURCE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    AnyPanel,
    Limit,
    Query,
    graph,
    heatmap_panel,
    stat,
)

_JOB: Final = 'namespace=~"$namespace",job=~"$job"'  # labels of recorded series
_POD: Final = f'{_JOB},instance=~"$instance"'
_SCORING: Final = 'route=~"/v1/(score|faces).*|/v2/.*/infer|.*/Model(Stream)?Infer"'
_RATE: Final = "[$__rate_interval]"
_STATES: Final = {"open": GREEN, "closed": BLUE, "uncertain": ORANGE}


def build(page: str) -> DashboardModel:
    """The dashboard.

    Args:
        page: the address of docs/operations.md on the documentation's site; links lead there.
    """
    dashboard = (
        Dashboard("eyestate")
        .uid("eyestate")
        .description("Open/closed-eye scoring: availability, latency, saturation, and quality of the scores.")
        .tags(["eyestate"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone(TimeZoneBrowser)
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(_link("Read this dashboard", f"{page}#read-the-dashboard"))
        .link(_link("Runbook", f"{page}#runbook"))
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("namespace", "Namespace", "eyestate_workers"))
        .with_variable(_variable("job", "Job", 'eyestate_workers{namespace=~"$namespace"}'))
        .with_variable(_variable("instance", "Pod", f"eyestate_workers{{{_JOB}}}"))
        .with_variable(_variable("route", "Route", f"eyestate_requests_total{{{_POD},{_SCORING}}}"))
        .annotation(
            _annotation(
                "Alerts", RED, 'max by (alertname, severity) (ALERTS{alertname=~"Eyestate.*",alertstate="firing"})'
            )
        )
        .annotation(
            _annotation(
                "Rollouts",
                BLUE,
                f"count by (name, version) (eyestate_model_info{{{_JOB}}})"
                f" unless count by (name, version) (eyestate_model_info{{{_JOB}}} offset 5m)",
            )
        )
    )
    for panel in _overview():
        dashboard.with_panel(panel)
    rows = {
        "Traffic and errors": _traffic(),
        "Latency": _latency(),
        "Saturation": _saturation(),
        "States and scores": _states(),
        "Drift": _drift(),
    }
    for title, panels in rows.items():
        dashboard.with_row(Row(title))
        for each in panels:
            dashboard.with_panel(each)
    return dashboard.build()


def _overview() -> list[AnyPanel]:
    failed, requests = f"eyestate:requests_failed:rate5m{{{_JOB}}}", f"eyestate:requests:rate5m{{{_JOB}}}"
    return [
        stat(
            "Availability",
            "Share of scoring requests without a server-side failure (5xx, and 429 but for used-up quotas), over the "
            "selected time range. The objective is 99.9 % over 30 days.",
            Query(f"1 - sum(avg_over_time({failed}[$__range])) / sum(avg_over_time({requests}[$__range]))"),
            unit="percentunit",
            limits=[Limit(0.99, ORANGE), Limit(0.999, GREEN)],
            below=RED,
            decimals=3,
        ),
        stat(
            "Budget burn, 1 h",
            "Rate at which the error budgets are consumed: 1 uses them up in exactly 30 days, 14.4 pages. "
            "Alerts: EyestateAvailabilityBudgetBurn, EyestateLatencyBudgetBurn, EyestateFacesBudgetBurn.",
            Query(f"max(eyestate:availability:burnrate1h{{{_JOB}}})", "errors"),
            Query(f"max(eyestate:latency:burnrate1h{{{_JOB}}})", "latency"),
            Query(f"max(eyestate:faces:burnrate1h{{{_JOB}}})", "photos"),
            unit="short",
            limits=[Limit(1, YELLOW), Limit(6, ORANGE), Limit(14.4, RED)],
            decimals=1,
            width=4,
        ),
        stat(
            "Requests",
            "Scoring requests per second.",
            Query(f"sum({requests})"),
            unit="reqps",
        ),
        stat(
            "p95 of a single crop",
            "95th percentile of the latency of /v1/score, from the end of the body. The objective is 0.25 s for 99 %.",
            Query(f'max(eyestate:request_duration_seconds:p95_5m{{{_JOB},route="/v1/score"}})'),
            unit="s",
            limits=[Limit(0.1, YELLOW), Limit(0.25, RED)],
        ),
        stat(
            "Queued work",
            "Time to process the queued crops at the current throughput. Workers reject requests from a sixth of "
            "EYESTATE_TIMEOUT on, 10 s by default. Alert: EyestateQueueFilling.",
            Query(f"max(eyestate:queue_drain_seconds:avg5m{{{_JOB}}})"),
            unit="s",
            limits=[Limit(0.5, YELLOW), Limit(2, RED)],
        ),
        stat(
            "Ready",
            "Pods that Prometheus can scrape, and ready workers in them. Alerts: EyestateDown, EyestateTargetDown.",
            Query(f'sum(up{{job="eyestate",{_POD}}})', "pods"),
            Query(f"sum(eyestate_workers{{{_POD}}})", "workers"),
            unit="short",
            limits=[Limit(1, GREEN)],
            below=RED,
            decimals=0,
        ),
        stat(
            "Alerts",
            "Alerts that are firing; red annotations in the panels below show when they fired.",
            Query('count(ALERTS{alertname=~"Eyestate.*",alertstate="firing"}) or vector(0)'),
            unit="short",
            limits=[Limit(1, RED)],
            decimals=0,
            width=2,
        ),
        stat(
            "Model and device",
            "Served model and device. Several lines mean a rollout, or pods that fell back to another device.",
            Query(
                f"count by (name, version, device) (eyestate_model_info{{{_POD}}})", "{{name}} {{version}} {{device}}"
            ),
            unit="short",
            text=BigValueTextMode.NAME,
        ),
    ]


def _traffic() -> list[AnyPanel]:
    return [
        graph(
            "Requests by route",
            "Requests per second, without probes and scrapes.",
            Query(f"sum by (route) (rate(eyestate_requests_total{{{_POD},{_SCORING}}}{_RATE}))", "{{route}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Requests by status",
            "Responses per second. 4xx are client errors, except for 429, which means overload; 499 means that the "
            "client closed the connection first.",
            Query(f"sum by (status) (rate(eyestate_requests_total{{{_POD},{_SCORING}}}{_RATE}))", "{{status}}"),
            unit="reqps",
            stacked=True,
            colours={"2..": GREEN, "429": ORANGE, "5..": RED},
        ),
        graph(
            "Rejections by reason",
            "Rejected requests per second by error code. Alerts: EyestateOverloaded (overloaded), "
            "EyestateDeadlineExceeded (deadline_exceeded), EyestateInternalErrors (internal), "
            "EyestateUnauthorizedSurge (unauthorized).",
            Query(f"sum by (reason) (rate(eyestate_rejected_total{{{_POD}}}{_RATE}))", "{{reason}}"),
            unit="reqps",
            colours={"overloaded": ORANGE, "internal|deadline_exceeded|draining": RED},
        ),
        graph(
            "Error budget burn",
            "Rate at which the budget of failed requests is consumed. It pages when both windows of a pair exceed 14.4 "
            "(1 h and 5 min) or 6 (6 h and 30 min).",
            *(
                Query(f"max(eyestate:availability:burnrate{window}{{{_JOB}}})", window)
                for window in ("5m", "1h", "6h", "3d")
            ),
            unit="short",
            limits=[Limit(1, YELLOW), Limit(6, ORANGE), Limit(14.4, RED)],
        ),
    ]


def _latency() -> list[AnyPanel]:
    buckets = f'eyestate_request_duration_seconds_bucket{{{_POD},{_SCORING},route=~"$route"}}'
    phases = f"eyestate_phase_duration_seconds_bucket{{{_POD}}}"
    return [
        heatmap_panel(
            "Request latency",
            "Distribution of request latencies, from the end of the body on; a second band is a second kind of request "
            "or pod.",
            f"sum by (le) (increase({buckets}{_RATE}))",
            unit="s",
            width=8,
        ),
        graph(
            "Latency percentiles",
            "Of requests to the selected routes. The line is the objective for single crops. Alert: "
            "EyestateLatencyBudgetBurn.",
            *(
                Query(f"histogram_quantile(0.{p}, sum by (le) (rate({buckets}{_RATE})))", f"p{p}")
                for p in ("50", "95", "99")
            ),
            unit="s",
            width=8,
            limits=[Limit(0.25, RED)],
        ),
        graph(
            "p95 by phase",
            "Time spent in each phase: receive, decode and queue per request, inference per batch. Receive is what "
            "clients take to send, which is no part of the latency.",
            Query(
                f"histogram_quantile(0.95, sum by (phase, le) (rate({phases}{_RATE})))",
                "{{phase}}",
            ),
            unit="s",
            width=8,
        ),
    ]


def _saturation() -> list[AnyPanel]:
    return [
        graph(
            "Queued crops",
            "Crops waiting for inference: in all pods, and in the ten pods with the longest queues.",
            Query(f"sum(eyestate_queue_crops{{{_POD}}})", "all"),
            Query(f"topk(10, eyestate_queue_crops{{{_POD}}})", "{{instance}}"),
            unit="short",
            width=8,
        ),
        graph(
            "Crops per second",
            "Crops scored per second: by all pods, and by the ten busiest.",
            Query(f"sum(rate(eyestate_crops_total{{{_POD}}}{_RATE}))", "all"),
            Query(f"topk(10, sum by (instance) (rate(eyestate_crops_total{{{_POD}}}{_RATE})))", "{{instance}}"),
            unit="short",
            width=8,
        ),
        heatmap_panel(
            "Batch sizes",
            "Crops per inference. Batches grow with the load; if all are at the upper end, larger ones would not "
            "increase throughput.",
            f"sum by (le) (increase(eyestate_batch_size_crops_bucket{{{_POD}}}{_RATE}))",
            unit="short",
            width=8,
        ),
        graph(
            "Memory",
            "Resident memory of the workers, for the ten largest pods. Alert: EyestateMemoryGrowing.",
            Query(f"topk(10, eyestate_resident_memory_bytes{{{_POD}}})", "{{instance}}"),
            unit="bytes",
            width=8,
        ),
        graph(
            "Workers",
            "Ready workers, and restarts in the last hour. Alert: EyestateWorkersRestarting.",
            Query(f"sum(eyestate_workers{{{_POD}}})", "ready"),
            Query(f"sum(eyestate:worker_restarts:increase1h{{{_POD}}})", "restarts, 1 h"),
            unit="short",
            width=8,
        ),
        graph(
            "Pods by model and device",
            "A rollout shows as two crossing lines. Alerts: EyestateModelVersionsMixed, EyestateGpuUnused.",
            Query(
                f"count by (name, version, device) (eyestate_model_info{{{_POD}}})", "{{name}} {{version}} {{device}}"
            ),
            unit="short",
            width=8,
            stacked=True,
        ),
        graph(
            "Autoscaler",
            "Pods that the autoscaler wants, as a share of its maximum; from kube-state-metrics. Alert: "
            "EyestateAutoscalerAtMaximum.",
            Query(
                'max by (namespace) (eyestate:autoscaler_replicas:share_of_max{namespace=~"$namespace"})',
                "{{namespace}}",
            ),
            unit="percentunit",
            width=12,
            limits=[Limit(1, RED)],
        ),
        graph(
            "Certificates",
            "Time until a TLS certificate ends, from cert-manager or the blackbox exporter. Alert: "
            "EyestateCertificateExpiring.",
            Query("min by (name, instance) (eyestate:certificate_lifetime_seconds:min)", "{{name}}{{instance}}"),
            unit="s",
            width=12,
            limits=[Limit(0, RED), Limit(1_209_600, GREEN)],
        ),
    ]


def _states() -> list[AnyPanel]:
    return [
        graph(
            "States",
            "Share of crops by state.",
            Query(
                f"sum by (state) (rate(eyestate_crops_total{{{_POD}}}{_RATE}))"
                f" / on () group_left () sum(rate(eyestate_crops_total{{{_POD}}}{_RATE}))",
                "{{state}}",
            ),
            unit="percentunit",
            stacked=True,
            colours=_STATES,
        ),
        heatmap_panel(
            "Scores",
            "Distribution of P(open). Most crops should be near 0 or 1.",
            f"sum by (le) (increase(eyestate_crop_score_bucket{{{_POD}}}{_RATE}))",
            unit="short",
        ),
        graph(
            "Uncertain crops",
            "Share of crops between the thresholds: recent crops, averaged over pods, and the model's reference. "
            "Available from 500 crops on. Alert: EyestateUncertain.",
            Query(f'avg(eyestate_uncertain_share{{{_POD},crops="recent"}})', "recent"),
            Query(f'max(eyestate_uncertain_share{{{_POD},crops="reference"}})', "reference"),
            unit="percentunit",
        ),
        graph(
            "Deferred crops",
            "Share of crops that a cascade deferred to its large network; 0 with any other model.",
            Query(
                f"sum(rate(eyestate_crops_deferred_total{{{_POD}}}{_RATE}))"
                f" / sum(rate(eyestate_crops_total{{{_POD}}}{_RATE}))",
                "deferred",
            ),
            unit="percentunit",
        ),
        graph(
            "Failed crops",
            "Crops per second that cannot be scored, by error code. Alert: EyestateCropsFailing.",
            Query(f"sum by (code) (rate(eyestate_crops_failed_total{{{_POD}}}{_RATE}))", "{{code}}"),
            unit="short",
        ),
    ]


def _drift() -> list[AnyPanel]:
    sample = {"width": "eyestate_crop_width_pixels", "brightness": "eyestate_crop_brightness"}
    median = "histogram_quantile(0.5, sum by (le) (rate({}_bucket{{{}}}{})))"
    return [
        graph(
            "Drift by feature",
            "Population stability index of recent crops against the reference, for the pod with the highest: below 0.1 "
            "is stable, above 0.2 needs attention, in the width only against a reference of your own. Available from "
            "500 crops on. Alert: EyestateDrift.",
            Query(f"max by (source, feature) (eyestate_drift_psi{{{_POD}}})", "{{feature}} of {{source}}"),
            unit="short",
            limits=[Limit(0.1, YELLOW), Limit(0.2, RED)],
            width=12,
        ),
        graph(
            "Width and brightness",
            "Medians of the crops as received: width in pixels, brightness as grey values from 0 to 255.",
            *(Query(median.format(metric, _POD, _RATE), name) for name, metric in sample.items()),
            unit="short",
        ),
        graph(
            "Sharpness",
            "Median sharpness of the crops as received; below 0.06 a crop counts as blurred.",
            Query(median.format("eyestate_crop_sharpness", _POD, _RATE), "sharpness"),
            unit="short",
        ),
    ]


def _variable(name: str, label: str, series: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _annotation(name: str, colour: str, expr: str) -> AnnotationQuery:
    return AnnotationQuery().name(name).datasource(DATASOURCE).enable(True).icon_color(colour).expr(expr)


def _link(title: str, url: str) -> DashboardLink:
    return DashboardLink(title).type(DashboardLinkType.LINK).url(url).icon("doc").target_blank(True)
