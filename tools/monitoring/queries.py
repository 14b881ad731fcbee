"""Every query of the dashboard and the rules, and its result on a running Prometheus."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tools.monitoring.artefacts import DASHBOARD, compared_series, rules

_FILLED_IN: Final = {
    "$__rate_interval": "30s",
    "$__range": "5m",
    "$namespace": ".*",
    "$job": ".*",
    "$instance": ".*",
    "$route": ".*",
    'alertstate="firing"': 'alertstate=~"pending|firing"',  # most alerts fire only after an hour
}
# Of kube-state-metrics, cert-manager and the blackbox exporter, which only a cluster has.
_OF_THE_CLUSTER: Final = re.compile(r"eyestate:(autoscaler|certificate)_|\b(kube|certmanager|probe)_")
_LABEL_VALUES: Final = re.compile(r"label_values\((.+), (\w+)\)")


@dataclass(frozen=True, slots=True)
class CheckedQuery:
    """A query.

    Attributes:
        source: panel, variable, annotation, rule or alert that it belongs to.
        expr: PromQL.
        may_be_empty: an empty result is correct, as for an alert that does not fire.
    """

    source: str
    expr: str
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The series that a query returned, with their latest values; ``error`` says why there are none."""

    query: CheckedQuery
    series: list[tuple[dict[str, str], float]]
    error: str = ""

    @property
    def problem(self) -> str:
        """What is wrong with the result; empty if nothing is."""
        if self.error or self.query.may_be_empty:
            return self.error
        return "" if any(math.isfinite(value) for _, value in self.series) else "no value"


def dashboard_queries() -> Iterator[CheckedQuery]:
    """Every query of the committed dashboard, with values substituted for its variables."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield _checked(panel["title"], _filled_in(target["expr"]))
    for variable in dashboard["templating"]["list"]:
        if found := _LABEL_VALUES.fullmatch(variable["query"]):
            yield CheckedQuery(f"variable {variable['name']}", f"count by ({found[2]}) ({_filled_in(found[1])})")
    for annotation in dashboard["annotations"]["list"]:
        yield CheckedQuery(f"annotation: {annotation['name']}", _filled_in(annotation["expr"]))


def rule_queries() -> Iterator[CheckedQuery]:
    """Every rule's expression; for an alert also the series it compares, which exist while it does not fire."""
    for rule in rules():
        if "record" in rule:
            yield _checked(rule["record"], rule["expr"].strip())
        else:
            source = " ".join([rule["alert"], rule["labels"].get("windows", "")]).strip()
            yield CheckedQuery(source, rule["expr"], may_be_empty=True)
            yield from (_checked(source, series) for series in compared_series(rule["expr"]))


def run_query(prometheus: httpx.Client, query: CheckedQuery) -> QueryResult:
    """Run a query on the Prometheus at the client's base URL."""
    response = prometheus.get("/api/v1/query", params={"query": query.expr}).json()
    if response["status"] != "success":
        return QueryResult(query, [], response["error"])
    return QueryResult(query, [(each["metric"], float(each["value"][1])) for each in response["data"]["result"]])


def unhealthy_rules(prometheus: httpx.Client) -> dict[str, str]:
    """Rules that Prometheus could not evaluate or has not evaluated yet, with its error or their state."""
    groups: list[dict[str, Any]] = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    return {rule["name"]: rule.get("lastError", rule["health"]) for rule in found if rule["health"] != "ok"}


def _checked(source: str, expr: str) -> CheckedQuery:
    return CheckedQuery(source, expr, may_be_empty=bool(_OF_THE_CLUSTER.search(expr)))


def _filled_in(expression: str) -> str:
    for variable, value in _FILLED_IN.items():
        expression = expression.replace(variable, value)
    return expression
