"""The answers of a rehearsal as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tools.monitoring.check import CheckReport
from tools.monitoring.queries import QueryResult

_SHOWN: Final = 6  # series of an answer
_UNTOLD: Final = {"__name__", "job", "instance", "sha256"}  # labels that are the same everywhere


def render(outcome: CheckReport) -> str:
    """The page: every query with the values that Prometheus returned."""
    return "\n".join(
        [
            "# What Prometheus answers",
            "",
            "`python -m tools.monitoring queries` makes this page. It starts the service with two workers and room for",
            "100 crops in a queue, so that some requests are refused, sends requests of every kind from 8 connections,",
            "and asks a real Prometheus, which runs with `k8s/monitoring/prometheus.yml` and `rules.yml` but scrapes",
            "and evaluates every second, for everything that dashboard and rules ask for. Variables of the dashboard",
            "stand for all there is, and alerts count from when they are pending. The values tell that every query",
            "finds its series; they are no measurement of speed.",
            "",
            f"A scrape brings {outcome.samples:,} samples; the limit is {outcome.limit:,}.",
            "",
            "## Dashboard",
            "",
            *_table("Panel", outcome.dashboard),
            "",
            "## Rules",
            "",
            "Of an alert the first row is its expression, which has no value while it is silent; the next ones are",
            "what it compares.",
            "",
            *_table("Rule", outcome.rules),
            "",
        ]
    )


def _table(source: str, answers: Iterable[QueryResult]) -> Iterable[str]:
    yield f"| {source} | Query | Values |"
    yield "|---|---|---|"
    for answer in answers:
        query = " ".join(answer.question.query.split()).replace("|", "\\|")
        yield f"| {answer.question.source} | `{query}` | {_values(answer)} |"


def _values(answer: QueryResult) -> str:
    if answer.error:
        return f"**error**: {answer.error}"
    if not answer.series:
        return "none" if answer.question.may_be_empty else "**none**"
    shown = [f"{_labels(labels)}{value:.4g}" for labels, value in answer.series[:_SHOWN]]
    more = len(answer.series) - _SHOWN
    return "<br>".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def _labels(labels: dict[str, str]) -> str:
    told = " ".join(f"{name}={value}" for name, value in labels.items() if name not in _UNTOLD)
    return f"{told}: " if told else ""
