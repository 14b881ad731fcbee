"""A long, steady mix of valid and invalid requests: memory must not grow."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from loadtests.chaos.memory import memory_figures, memory_growth, memory_sampled
from loadtests.chaos.requests import large, mistaken, small
from tools.harness.claims import Claim
from tools.harness.load import LoadGenerator, percentiles_ms, stop_after
from tools.harness.outcomes import all_accounted_for, none_lost, only_statuses, request_counts
from tools.harness.servers import Server

SLOPE_MIB_PER_MINUTE: Final = 0.25
NOISE_MIB: Final = 8.0  # fluctuation of a warm service's memory
WARM_UP_SHARE: Final = 0.25
SAMPLES: Final = 600


async def soak(server: Server, *, model: str, rate: float, seconds: float) -> tuple[dict[str, Any], list[Claim]]:
    """Send requests at a constant rate.

    Args:
        server: the service.
        model: the name of what it serves.
        rate: requests per second, well below its capacity.
        seconds: of load; memory is evaluated after the first quarter.

    Returns:
        The figures for the report, and the claims.
    """
    generator = LoadGenerator(server.port, [*small(model), *large(), *mistaken()])
    stop = asyncio.Event()
    async with memory_sampled(server, every=max(0.5, seconds / SAMPLES)) as samples:
        await asyncio.gather(generator.open_loop(rate, stop), stop_after(seconds, stop))
    generator.close()

    memory = memory_growth(samples, WARM_UP_SHARE * seconds)
    allowed = NOISE_MIB + SLOPE_MIB_PER_MINUTE * (1 - WARM_UP_SHARE) * seconds / 60
    figures = request_counts(generator) | {
        "requests_per_second": round(generator.sent / seconds, 1),
        "answered_ms": percentiles_ms(generator.outcomes, lambda outcome: outcome.status is not None),
    }
    claims = [
        all_accounted_for(generator),
        none_lost(generator),
        only_statuses(generator, 200, 400, 404, 415, 422),
        Claim("the generator keeps the rate", f"{generator.held_back} requests held back", generator.held_back == 0),
        Claim(
            f"memory grows by less than {allowed:.1f} MiB after the warm-up",
            f"{memory.total_mib:+.2f} on {memory.start_mib:.0f} MiB, {memory.slope_mib_per_minute:+.2f} a minute",
            memory.total_mib < allowed,
        ),
    ]
    return figures | memory_figures(samples, memory), claims
