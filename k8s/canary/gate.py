"""May the canary be promoted? Asks Prometheus; exits with 0 if so, with 1 and the reasons if not.

Compares the job of the canary with the stable one over a window: requests, errors, latency, and, where the canary has
another model, the share of crops that it would judge differently. The stable pods measure that share in shadow mode
(EYESTATE_SHADOW_MODEL): each crop of the sample is scored by both. What cannot be measured counts against promotion.
It needs Python alone, so that it runs in the image as well as anywhere else.
"""

from __future__ import annotations

import argparse
import json
import math
import urllib.parse
import urllib.request
from dataclasses import dataclass

SCORING = 'route=~"/v1/(score|faces).*|/v2/.*/infer|.*/Model(Stream)?Infer"'


@dataclass(frozen=True)
class Finding:
    """What was asked, what came out, and whether it allows promotion."""

    what: str
    found: str
    passed: bool


class Prometheus:
    """A Prometheus that answers instant queries."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def series(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values that a query returns.

        Raises:
            OSError: there is no answer, or it is an error.
        """
        request = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  # the operator's own URL
            result = json.load(answer)["data"]["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def value(self, query: str) -> float:
        """The value of a query; not a number if it has none."""
        found = self.series(query)
        return found[0][1] if found else math.nan


def findings(prometheus: Prometheus, options: argparse.Namespace) -> list[Finding]:
    """All criteria; a value that is not a number fails, since every comparison with it does."""
    canary, stable = (f'namespace="{options.namespace}",job="{job}"' for job in (options.canary, options.stable))
    window = options.window

    def requests(labels: str, statuses: str) -> str:
        # Neither good nor bad are 499, a client that disconnected, and 429 because the quota of a key is used up.
        answered = f'eyestate_requests_total{{{labels},{SCORING},status=~"{statuses}"}}'
        over_quota = f"eyestate_requests_over_quota_total{{{labels},{SCORING}}}"
        return f"sum(increase({answered}[{window}]) or -increase({over_quota}[{window}]))"

    def errors(labels: str) -> float:
        failed, everything = requests(labels, "5..|429"), requests(labels, "[1-3]..|4[0-8].|49[0-8]|5..")
        return prometheus.value(f"({failed} or vector(0)) / {everything}")

    def p95(labels: str) -> float:
        bucket = f'eyestate_request_duration_seconds_bucket{{{labels},route="/v1/score"}}'
        return prometheus.value(f"histogram_quantile(0.95, sum by (le) (rate({bucket}[{window}])))")

    sent = prometheus.value(requests(canary, "..."))
    bad, usual = errors(canary), errors(stable)
    slow, before = p95(canary), p95(stable)
    found = [
        Finding(f"at least {options.requests:,} requests", f"{sent:,.0f}", sent >= options.requests),
        Finding(
            f"errors at most {options.more_errors:.2%} above those of the stable version",
            f"{bad:.3%} against {usual:.3%}",
            bad <= usual + options.more_errors,
        ),
        Finding(f"p95 of /v1/score within {options.p95:g} s", f"{slow:.3f} s", slow <= options.p95),
        Finding(
            f"p95 at most {options.slower:g} × that of the stable version",
            f"{slow:.3f} s against {before:.3f} s",
            slow <= before * options.slower,
        ),
    ]
    models = [
        {metric.get("sha256") for metric, _ in prometheus.series(f"eyestate_model_info{{{labels}}}")}
        for labels in (canary, stable)
    ]
    if not models[0] or models[0] != models[1]:
        differing, scored = (f"eyestate_shadow_{name}_total{{{stable}}}" for name in ("disagreements", "crops"))
        compared = prometheus.value(f"sum(increase({scored}[{window}]))")
        share = prometheus.value(f"sum(increase({differing}[{window}])) / sum(increase({scored}[{window}]))")
        found += [
            Finding(f"at least {options.crops:,} crops in shadow mode", f"{compared:,.0f}", compared >= options.crops),
            Finding(
                f"at most {options.differing:.2%} of the verdicts differ", f"{share:.3%}", share <= options.differing
            ),
        ]
    return found


def main() -> int:
    """Print every finding and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", required=True, help="its URL")
    parser.add_argument("--namespace", default="eyestate")
    parser.add_argument("--canary", default="eyestate-canary", help="job of the canary (eyestate-canary)")
    parser.add_argument("--stable", default="eyestate", help="job of the stable version (eyestate)")
    parser.add_argument("--window", default="30m", help="to look back over (30m)")
    parser.add_argument("--requests", type=int, default=1_000, help="fewest requests to the canary (1000)")
    parser.add_argument(
        "--more-errors", type=float, default=0.001, help="share of requests, above the stable's (0.001)"
    )
    parser.add_argument("--p95", type=float, default=0.25, help="seconds, the objective (0.25)")
    parser.add_argument("--slower", type=float, default=1.2, help="p95, as a multiple of the stable's (1.2)")
    parser.add_argument("--crops", type=int, default=1_000, help="fewest crops scored by both models (1000)")
    parser.add_argument("--differing", type=float, default=0.01, help="share of verdicts that may differ (0.01)")
    options = parser.parse_args()
    try:
        found = findings(Prometheus(options.prometheus), options)
    except OSError as error:
        print(f"not promoted: Prometheus at {options.prometheus} does not answer: {error}")
        return 1
    for each in found:
        print(f"{'yes' if each.passed else 'NO':>3}  {each.what}: {each.found}")
    promoted = all(each.passed for each in found)
    print("promote" if promoted else "not promoted")
    return 0 if promoted else 1


if __name__ == "__main__":
    raise SystemExit(main())
