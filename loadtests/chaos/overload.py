"""More requests than the service can handle: it rejects the excess promptly and keeps its throughput."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from loadtests.chaos.memory import memory_figures, memory_growth, memory_sampled
from tools.harness import crops
from tools.harness.claims import Claim
from tools.harness.load import LoadGenerator, http_request, percentiles_ms, statuses, stop_after
from tools.harness.outcomes import all_accounted_for, none_lost, only_statuses, request_counts
from tools.harness.servers import Server

CAPACITY_CONNECTIONS: Final = 64
WARM_UP_SECONDS: Final = 2
GOODPUT: Final = 0.7  # of the capacity that must still be answered with 200; the generator shares the cores
REFUSAL_MS: Final = 1_000  # p90 of rejections, on overloaded cores
GROWTH_MIB: Final = 48


async def overload(
    server: Server, *, factor: float, seconds: float, timeout: float
) -> tuple[dict[str, Any], list[Claim]]:
    """Measure the capacity, then send ``factor`` times as much.

    Args:
        server: the service.
        factor: multiple of the capacity to send.
        seconds: of overload; measuring the capacity takes another quarter of that.
        timeout: EYESTATE_TIMEOUT of the service in seconds.

    Returns:
        The figures for the report, and the claims.
    """
    request = http_request("/v1/score", crops.jpeg(crops.eye()))
    capacity = 0.0
    for duration in (WARM_UP_SECONDS, max(2.0, seconds / 4)):
        baseline = LoadGenerator(server.port, [request])
        stop = asyncio.Event()
        await asyncio.gather(baseline.closed_loop(CAPACITY_CONNECTIONS, stop), stop_after(duration, stop))
        baseline.close()
        capacity = statuses(baseline.outcomes).get("200", 0) / duration
    generator = LoadGenerator(server.port, [request])
    stop = asyncio.Event()
    async with memory_sampled(server, every=max(0.5, seconds / 200)) as samples:
        await asyncio.gather(generator.open_loop(factor * capacity, stop), stop_after(seconds, stop))
    generator.close()

    outcomes = generator.outcomes
    refused = [outcome for outcome in outcomes if outcome.status == 429]
    without = sum(not (outcome.retry_after or "").isdigit() or int(outcome.retry_after or 0) < 1 for outcome in refused)
    took = max(outcome.sent + outcome.seconds for outcome in outcomes) - min(outcome.sent for outcome in outcomes)
    goodput = statuses(outcomes).get("200", 0) / took
    accepted_ms = percentiles_ms(outcomes, lambda outcome: outcome.status == 200)
    refused_ms = percentiles_ms(outcomes, lambda outcome: outcome.status == 429)
    memory = memory_growth(samples, warm_up=seconds / 4)
    figures = request_counts(generator) | {
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round(generator.sent / seconds, 1),
        "accepted_per_second": round(goodput, 1),
        "accepted_ms": accepted_ms,
        "refused_ms": refused_ms,
        "refusals_without_retry_after": without,
    }
    claims = [
        all_accounted_for(generator),
        none_lost(generator),
        only_statuses(generator, 200, 429),
        Claim("some requests are rejected", f"{len(refused):,}", bool(refused)),
        Claim("every rejection has a Retry-After header", f"{without} have none", without == 0),
        Claim(
            f"rejections are prompt: p90 under {REFUSAL_MS} ms",
            "none" if refused_ms is None else f"{refused_ms['p90']:,.0f} ms",
            refused_ms is not None and refused_ms["p90"] < REFUSAL_MS,
        ),
        Claim(
            f"accepted requests are answered within the timeout of {timeout:g} s",
            "none"
            if accepted_ms is None
            else f"p99 {accepted_ms['p99']:,.0f} ms, longest {accepted_ms['max']:,.0f} ms",
            accepted_ms is not None and accepted_ms["max"] < (timeout + 1) * 1e3,
        ),
        Claim(
            f"at least {GOODPUT:.0%} of the capacity is still served",
            f"{goodput:,.0f} of {capacity:,.0f} per second",
            goodput >= GOODPUT * capacity,
        ),
        Claim(
            f"memory grows by less than {GROWTH_MIB} MiB after the first quarter",
            f"{memory.total_mib:+.1f} MiB",
            memory.total_mib < GROWTH_MIB,
        ),
    ]
    return figures | memory_figures(samples, memory), claims
