"""Files for Prometheus and Grafana: ``k8s/monitoring/rules.yml``, and those generated from it and the dashboard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tools.monitoring.dashboard import build

FOLDER: Final = Path(__file__).parents[2] / "k8s" / "monitoring"
RULES: Final = FOLDER / "rules.yml"
SCRAPE: Final = FOLDER / "prometheus.yml"
DASHBOARD: Final = FOLDER / "dashboard.json"
DOCS: Final = "docs"  # within the repository

_COMPARISON: Final = re.compile(r"(eyestate:[\w:]+) [<>=]=? [\d.]+")
_HEADER: Final = "# Generated from rules.yml by `python -m tools.monitoring generate`.\n"


def rules() -> list[dict[str, Any]]:
    """The rules of all groups, as Prometheus reads them."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def compared_series(alert: str) -> list[str]:
    """The recorded series that an alert's expression compares with thresholds."""
    return _COMPARISON.findall(alert)


def generated(docs: str = DOCS) -> dict[Path, str]:
    """The files generated from ``rules.yml`` and ``tools/monitoring/dashboard.py``, by path.

    Args:
        docs: where the documentation is; links of alerts and dashboard lead there.
    """
    return {
        DASHBOARD: JSONEncoder(indent=2, sort_keys=True).encode(build(docs)) + "\n",
        FOLDER / "prometheus-rule.yaml": _HEADER + _prometheus_rule(docs),
    }


def _prometheus_rule(docs: str) -> str:
    spec = yaml.safe_load(RULES.read_text())
    for group in spec["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                runbook = rule["annotations"]["runbook_url"].removeprefix(f"{DOCS}/")
                rule["annotations"] = rule["annotations"] | {"runbook_url": f"{docs}/{runbook}"}
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "eyestate", "labels": {"app.kubernetes.io/name": "eyestate"}},
        "spec": spec,
    }
    return yaml.dump(resource, Dumper=_Readable, sort_keys=False, width=120)


class _Readable(yaml.SafeDumper):
    """YAML without anchors, and with multi-line PromQL as block scalars."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # the base class defines it
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)
