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
MKDOCS: Final = FOLDER.parents[1] / "mkdocs.yml"

_COMPARISON: Final = re.compile(r"(eyestate:[\w:]+) [<>=]=? [\d.]+")
_RUNBOOK: Final = re.compile(r"(runbook_url: )\S+(#\S+)")
_HEADER: Final = "# Generated from rules.yml by `python -m tools.monitoring generate`.\n"


def rules() -> list[dict[str, Any]]:
    """The rules of all groups, as Prometheus reads them."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def compared_series(alert: str) -> list[str]:
    """The recorded series that an alert's expression compares with thresholds."""
    return _COMPARISON.findall(alert)


def operations_page() -> str:
    """The address of the page with the runbook, on the site whose address ``mkdocs.yml`` has."""
    site: str = yaml.safe_load(MKDOCS.read_text())["site_url"]
    return f"{site.rstrip('/')}/operations/"


def generated() -> dict[Path, str]:
    """The files generated from ``rules.yml``, ``tools/monitoring/dashboard.py`` and the site's address, by path.

    ``rules.yml`` is among them: only its links are generated.
    """
    page = operations_page()
    linked = _RUNBOOK.sub(rf"\g<1>{page}\2", RULES.read_text())
    return {
        RULES: linked,
        DASHBOARD: JSONEncoder(indent=2, sort_keys=True).encode(build(page)) + "\n",
        FOLDER / "prometheus-rule.yaml": _HEADER + _prometheus_rule(yaml.safe_load(linked)),
    }


def _prometheus_rule(spec: dict[str, Any]) -> str:
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
