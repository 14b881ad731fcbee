"""A long, steady mix of valid and invalid requests: memory must not grow."""

from __future__ import annotations

import asyncio
import io
from typing import Any, Final

import numpy as np

from eyestate.media_types import JSON, NPY
from loadtests.chaos.memory import memory_figures, memory_growth, memory_sampled
from tools.harness import crops
from tools.harness.claims import Claim
from tools.harness.load import LoadGenerator, http_request, percentiles_ms, stop_after
from tools.harness.outcomes import all_accounted_for, none_lost, only_statuses, request_counts
from tools.harness.servers import Server

SLOPE_MIB_PER_MINUTE: Final = 1.0
NOISE_MIB: Final = 8.0  # fluctuation of a warm service's memory
WARM_UP_SHARE: Final = 0.25
SAMPLES: Final = 600


async def soak(server: Server, *, rate: float, seconds: float) -> tuple[dict[str, Any], list[Claim]]:
    """Send requests at a constant rate.

    Args:
        server: the service.
        rate: requests per second, well below its capacity.
        seconds: of load; memory is evaluated after the first quarter.

    Returns:
        The figures for the report, and the claims.
    """
    generator = LoadGenerator(server.port, mix())
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
        only_statuses(generator, 200, 415, 422),
        Claim("the generator keeps the rate", f"{generator.held_back} requests held back", generator.held_back == 0),
        Claim(
            f"memory grows by less than {allowed:.1f} MiB after the warm-up",
            f"{memory.total_mib:+.2f} on {memory.start_mib:.0f} MiB, {memory.slope_mib_per_minute:+.2f} a minute",
            memory.total_mib < allowed,
        ),
    ]
    return figures | memory_figures(samples, memory), claims


def mix() -> list[bytes]:
    """Twenty requests: JPEG crops of several sizes, one with image quality, one batch, and two invalid ones."""
    singles = [http_request("/v1/score", crops.jpeg(crops.eye(side))) for side in (24, 24, 32, 48, 96, 200)]
    file = io.BytesIO()
    np.save(file, np.stack([crops.eye()] * 8))
    others = [
        http_request("/v1/score?quality=true", crops.jpeg(crops.eye())),
        http_request("/v1/score/batch", file.getvalue(), NPY, JSON),
        http_request("/v1/score", b"this is no image"),
        http_request("/v1/score", crops.jpeg(crops.eye())[:300]),
    ]
    return [*singles, *singles[:4], *others[:2], *singles, *others[2:]]
