"""Tables and sentences of the docs about speed, memory and failures, from ``reports/``; see ``tools.figures``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

from eyestate.bundle import DEFAULT_MODEL
from tools.harness.report import table
from tools.harness.servers import PROJECT

REPORTS: Final = PROJECT / "reports"
_OURS, _MEDIAN, _THRESHOLD = (
    "`eyestate.temporal`",
    "median of 5 frames, threshold with hysteresis",
    "threshold with hysteresis",
)


def _report(name: str) -> Any:
    return json.loads((REPORTS / f"{name}.json").read_text())


def _filled(text: str) -> str:
    return textwrap.fill(text, 128, subsequent_indent="  " if text.startswith("- ") else "", break_on_hyphens=False)


def start() -> str:
    """How long a service with the default model takes to be ready."""
    found = _report(f"serving/footprint-{DEFAULT_MODEL}")
    ready, imports = found["ready_seconds"], found["import_seconds"]
    return _filled(
        f"A service with the default model is ready {ready:.0f} s after its start on {found['about']['cores']} cores: "
        f"{imports:.1f} s go into importing Python's packages, verifying the model's SHA-256 and forking the worker, "
        f"{ready - imports:.1f} s into opening its networks at every batch size, compiling them and trying how quick "
        "they are."
    )


def memory() -> str:
    """The memory of a worker with the default model under each load."""
    rows = _report(f"serving/footprint-{DEFAULT_MODEL}")["rows"]
    return table(["Load", "Memory, MiB", "`/tmp`, MiB"], [_footprint(row) for row in rows])


def _footprint(row: dict[str, Any]) -> list[str]:
    return [row["load"], f"{row['memory']:,.0f}", f"{row['tmp']:.1f}"]


def servers(model: str) -> str:
    """A model behind several servers."""
    rows = _report(f"serving/peers-{model}")["rows"]
    connections = sorted({row["connections"] for row in rows})
    lines = []
    for peer in dict.fromkeys(row["peer"] for row in rows):
        own = {row["connections"]: row for row in rows if row["peer"] == peer}
        loads = [f"{own[each]['requests_per_second']:,.0f} ({own[each]['p99_ms']:.1f})" for each in connections]
        lines.append([peer, *loads, str(max(row["pss_mib"] for row in own.values()))])
    return table(["requests/s (p99 ms), by connections", *map(str, connections), "Memory, MiB"], lines)


def targets() -> str:
    """What the small model behind this service should reach beside others."""
    found = _report("serving/peers-small")["targets"]
    rows = [[each["name"], each["wanted"], each["found"], "yes" if each["held"] else "**no**"] for each in found]
    return table(["Target", "Wanted", "Found", "Held"], rows)


def bulk() -> str:
    """The throughput of each format as a share of that of the bare scorer, for the small and the default model."""
    shares = {model: dict(_shares(model)) for model in ("small", DEFAULT_MODEL)}
    rows = [[mode, *(found[mode] for found in shares.values())] for mode in shares[DEFAULT_MODEL]]
    return table(["Request → response", "small network", f"`{DEFAULT_MODEL}`"], rows)


def _shares(model: str) -> Iterator[tuple[str, str | None]]:
    rows = _report(f"serving/bulk-{model}")["rows"]
    for mode in dict.fromkeys(_mode(row) for row in rows):
        shares = sorted(row["share"] for row in rows if _mode(row) == mode and not row["failed"])
        bounds = dict.fromkeys(f"{share:.2f}" for share in (shares[0], shares[-1])) if shares else {}
        yield mode, " to ".join(bounds) or None


def _mode(row: dict[str, Any]) -> str:
    mode = row["mode"]
    load = "packed" if mode["crops"] > 1 else f"one crop, {mode['connections']} connections"
    return f"{mode['request']} → {mode['response']}, {load}"


def protocols() -> str:
    """The inference protocol over gRPC beside HTTP."""
    rows = _report("serving/protocols")["rows"]
    lines = []
    for http, grpc in zip(rows[::2], rows[1::2], strict=True):
        speeds = [each["requests_per_second"] for each in (http, grpc)]
        load = [f"{http['crops']:,}", str(http["connections"])]
        ratios = [f"{speeds[1] / speeds[0]:.2f}", f"{grpc['cpu'] / http['cpu']:.2f}"]
        lines.append([*load, *(f"{speed:,.0f}" for speed in speeds), *ratios])
    return table(["Crops", "Connections", "HTTP, requests/s", "gRPC, requests/s", "ratio", "ratio of CPU time"], lines)


def devices() -> str:
    """Each network of the default model on each device and in each precision."""
    parts = []
    for network in _report("serving/devices")["networks"]:
        rows = network["rows"]
        sets = list(rows[0]["eer"])
        batches = sorted(rows[0]["crops_per_second"], key=int)
        head = [f"`{network['network']}`, crops/s by batch size", *batches, "÷ fp32", "Largest difference"]
        parts.append(
            table(
                [*head, "States changed", *(f"EER, {each}" for each in sets)],
                [
                    [
                        row["name"],
                        *(f"{row['crops_per_second'][batch]:,.0f}" for batch in batches),
                        f"{row['speedup']:.2f}",
                        _cell(row["largest_difference"], ".3f"),
                        _cell(row["states_changed"], ".2%"),
                        *(f"{row['eer'][each]['value']:.4f}" for each in sets),
                    ]
                    for row in rows
                ],
            )
        )
    return "\n".join(parts)


def pool() -> str:
    """The models on the unlabelled crops, by processor."""
    lines = []
    for path in sorted((REPORTS / "serving").glob("pool-*.json")):
        report = json.loads(path.read_text())
        rows = {row["model"]: row for row in report["rows"]}
        large = rows["final_best"]
        processor = report["about"]["cpu"].rpartition("(")[2].rstrip(")")
        for name, row in rows.items():
            here, http = row["in_process"], row["over_http"]
            ratios = [f"{here / large['in_process']:.1f}", f"{http / large['over_http']:.1f}"]
            share = f"{row['deferred']:.1%}" if row["deferred"] else None
            lines.append([f"{processor}, `{name}`", share, f"{here:,.0f}", ratios[0], f"{http:,.0f}", ratios[1]])
    head = ["Processor, model", "Deferred", "Crops/s in process", "÷ `final_best`", "over HTTP", "÷ `final_best`"]
    return table(head, lines)


def _cell(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def failures() -> str:
    """The runs under overload, with killed workers, at SIGTERM, of long duration and beside hostile requests."""
    lines = []
    runs = {f"`{run}`": run for run in ("overload", "kill", "drain", "soak")} | {"good ones in `hostile`": "hostile"}
    for shown, run in runs.items():
        report = _report(f"serving/chaos-{run}")
        answered = ", ".join(f"{count:,} × {status}" for status, count in report["answered"].items())
        broken = [f"**not**: {each['what']} ({each['found']})" for each in report["claims"] if not each["held"]]
        lost = f"{sum(report['lost'].values()):,}"
        lines.append([shown, f"{report['sent']:,}", answered, lost, "; ".join(broken) or "yes"])
    return table(["Run", "Sent", "Answered", "Lost", "All claims held"], lines)


def endurance() -> str:
    """How quickly killed workers are replaced, what memory does over time, and what hostile requests do to others."""
    kills, soak, hostile = (_report(f"serving/chaos-{run}") for run in ("kill", "soak", "hostile"))
    slowest = max(each["back_seconds"] for each in kills["kills"])
    settings, memory = soak["about"]["settings"], soak["memory"]
    beside, alone = hostile["beside_attacks_ms"]["p99"], hostile["alone_ms"]["p99"]
    before, after = hostile["memory_before_mib"], hostile["memory_after_mib"]
    attacks = sum(hostile["hostile"]["kinds"].values())
    return "\n".join(
        _filled(point)
        for point in (
            f"- **Killed workers** ({len(kills['kills'])}) were replaced within {slowest:.1f} s, under full load.",
            f"- **Memory.** {soak['sent']:,} requests of all forms in {settings['seconds'] / 60:.0f} minutes, to "
            f"{settings['workers']} worker{'s' if settings['workers'] > 1 else ''} with `{settings['model']}`, changed "
            f"it by {memory['total_mib']:+.1f} MiB on {memory['start_mib']:,.0f}.",
            f"- **Hostile requests**, {attacks:,} of them: good ones beside them had a p99 of {beside:.1f} ms, in the "
            f"pauses {alone:.1f} ms; memory went from {before:,.0f} to {after:,.0f} MiB.",
        )
    )


def streams() -> str:
    """Latency and memory of streams."""
    return streams_table(_report("serving/streams")["rows"])


def streams_table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows of ``loadtests.streams`` as a table."""
    memory = ["MiB before", "with idle streams", "with active ones"]
    speed = ("streams", "frames_per_second", "p50_ms", "p99_ms")
    return table(
        ["Frames", "Active streams", "Frames/s", "p50, ms", "p99, ms", *memory],
        [[row["mode"], *(f"{row[key]:,}" for key in speed), *row["memory_mib"]] for row in rows],
    )


def faces() -> str:
    """The cost of finding faces."""
    rows = _report("serving/faces")["rows"]
    return table(
        ["Photo", "Faces", "ms (p50)", "of it decoding"],
        [[row["photo"], row["faces"], f"{row['milliseconds']:.0f}", f"{row['of_it_decoding']:.0f}"] for row in rows],
    )


def blinks() -> str:
    """Blinks found in generated sequences, by this package and by simpler methods."""
    found: dict[str, dict[str, Any]] = {}
    for row in _report("temporal/blinks")["rows"]:
        found.setdefault(row["condition"], {})[row["method"]] = row
    head = [
        "Condition",
        "Precision",
        "Recall",
        "F1",
        "F1 of a threshold with hysteresis",
        "and after a median of 5 frames",
    ]
    lines = []
    for condition, methods in found.items():
        ours = [f"{methods[_OURS][key]:.3f}" for key in ("precision", "recall", "f1")]
        lines.append([condition, *ours, *(f"{methods[each]['f1']:.3f}" for each in (_THRESHOLD, _MEDIAN))])
    return table(head, lines)


def queue() -> str:
    """The crops that may wait for a pod, by the speed measured for one core."""
    found = _report("capacity/capacity")
    ours = [curve for curve in found["curves"] if curve["model"] == DEFAULT_MODEL and curve["kind"] == "single"]
    most = max(point["crops_per_second"] for point in ours[0]["points"])
    return _filled(
        f"A worker with the default model and a core of its own scored at most {most:,.0f} single crops a second "
        f"({ours[0]['device']}), which makes {most * found['limits']['single'] / 1000 / 2:,.0f}."
    )


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "blinks": blinks,
    "bulk": bulk,
    "devices": devices,
    "pool": pool,
    "endurance": endurance,
    "faces": faces,
    "failures": failures,
    "memory": memory,
    "protocols": protocols,
    "queue": queue,
    "servers": partial(servers, DEFAULT_MODEL),
    "servers, two processes": partial(servers, f"{DEFAULT_MODEL}-2"),
    "servers, small model": partial(servers, "small"),
    "start": start,
    "streams": streams,
    "targets": targets,
}
