"""The panel types of the dashboard and their common style."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

from grafana_foundation_sdk.builders import common, heatmap, prometheus
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heat
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, DynamicConfigValue, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"

AnyPanel: TypeAlias = Stat | Graph | Heat
Panel = TypeVar("Panel", Stat, Graph, Heat)


class Query(NamedTuple):
    """PromQL and the legend of its series."""

    expr: str
    legend: str = ""


class Limit(NamedTuple):
    """A colour and the value from which on it is used."""

    value: float
    colour: str


def stat(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    limits: Sequence[Limit] = (),
    below: str = GREEN,
    decimals: int = 2,
    width: int = 3,
    text: BigValueTextMode = BigValueTextMode.AUTO,
) -> Stat:
    """The latest value of each query as a large number.

    Args:
        title: of the panel.
        description: what it shows, and which alerts watch the same.
        queries: one or more.
        unit: Grafana's name of it.
        limits: in ascending order; they colour the panel.
        below: colour below all limits.
        decimals: number of decimals.
        width: in 24ths of the page.
        text: show the value or the name of the series.
    """
    panel = _described(Stat(), title, description, queries).unit(unit).decimals(decimals).height(4).span(width)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).text_mode(text)
    panel.color_mode(BigValueColorMode.BACKGROUND if limits else BigValueColorMode.VALUE)
    return panel.graph_mode(BigValueGraphMode.NONE).thresholds(_thresholds(limits, below))


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    limits: Sequence[Limit] = (),
    stacked: bool = False,
    colours: Mapping[str, str] | None = None,
    width: int = 6,
) -> Graph:
    """Lines over time.

    Args:
        title: of the panel.
        description: what it shows, and which alerts watch the same.
        queries: one or more series each.
        unit: Grafana's name of it.
        limits: drawn as dashed lines.
        stacked: stack series that add up to a whole.
        colours: of series, by a regular expression for their names.
        width: in 24ths of the page.
    """
    panel = _described(Graph(), title, description, queries).unit(unit).min(0).height(8).span(width)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    panel.thresholds(_thresholds(limits, "transparent"))
    if limits:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(30)
    for name, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_regexp(f"/^({name})$/", [DynamicConfigValue(id_val="color", value=fixed)])
    return panel


def heatmap_panel(title: str, description: str, query: str, *, unit: str, width: int = 6) -> Heat:
    """A histogram over time.

    Args:
        title: of the panel.
        description: what it shows.
        query: the increase of its buckets, by ``le``.
        unit: of the buckets, Grafana's name of it.
        width: in 24ths of the page.
    """
    panel = _described(Heat(), title, description, [Query(query, "{{le}}")], PromQueryFormat.HEATMAP)
    panel.height(8).span(width).calculate(False).y_axis(heatmap.YAxisConfig().unit(unit))
    return panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))


def _described(
    panel: Panel,
    title: str,
    description: str,
    queries: Sequence[Query],
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> Panel:
    panel.title(title).description(description).datasource(DATASOURCE)
    for ref, query in zip(string.ascii_uppercase, queries, strict=False):
        panel.with_target(
            prometheus.Dataquery()
            .expr(query.expr)
            .legend_format(query.legend or title)
            .format(form)
            .datasource(DATASOURCE)
            .ref_id(ref)
        )
    return panel


def _thresholds(limits: Sequence[Limit], below: str) -> ThresholdsConfig:
    steps = [Threshold(None, below), *(Threshold(limit.value, limit.colour) for limit in limits)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
