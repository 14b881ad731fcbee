"""Measured curves for tests."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.capacity.measure import Curve, Placement, Point

ALONE = Placement(1, shared=False, workers=1)


def point(offered: float, p99_ms: float = 10, *, refused: int = 0, elapsed: float = 10, crops: int = 1) -> Point:
    """A rate at which all but ``refused`` requests were answered."""
    sent = round(offered * 10)
    return Point(
        offered=offered,
        seconds=10,
        elapsed=elapsed,
        sent=sent,
        answered=sent - refused,
        refused=refused,
        failed=0,
        crops_per_second=(sent - refused) * crops / elapsed,
        p50_ms=p99_ms / 4,
        p95_ms=p99_ms / 2,
        p99_ms=p99_ms,
        cpu_seconds_per_1000_crops=5,
        busy_cores=offered / 200,
        waiting=offered / 10,
        lag_ms=1,
    )


def curve(
    model: str,
    points: Sequence[Point],
    *,
    crops: int = 1,
    placement: Placement = ALONE,
    queue: int | None = None,
    request_bytes: int = 600,
    answer_bytes: int = 200,
    memory_mib: float = 500,
) -> Curve:
    """A curve of single crops, or of packed ones if a request has more than one."""
    return Curve(
        model=model,
        device="cpu-fp32",
        kind="single" if crops == 1 else "packed",
        crops=crops,
        placement=placement,
        queue=queue,
        request_bytes=request_bytes,
        answer_bytes=answer_bytes,
        ready_seconds=5,
        memory_mib=memory_mib,
        points=list(points),
    )
