"""A steady mix of requests, good and bad, for long: memory stays where it is."""

from __future__ import annotations

import asyncio
import io
from typing import Any, Final

import numpy as np

from tools.harness import crops
from tools.harness.account import (
    balanced,
    books,
    growth,
    growth_figures,
    nothing_lost,
    only,
    sampled,
)
from tools.harness.claims import Claim
from tools.harness.load import Generator, http_request, percentiles_ms, stop_after
from tools.harness.servers import Server

SLOPE_MIB_PER_MINUTE: Final = 1.0
NOISE_MIB: Final = 8.0  # how far a warm service's memory wanders by itself
WARM_UP_SHARE: Final = 0.25
SAMPLES: Final = 600


async def soak(server: Server, *, rate: float, seconds: float) -> tuple[dict[str, Any], list[Claim]]:
    """Send so many requests per second.

    Args:
        server: the service.
        rate: requests per second; the service must manage them with ease.
        seconds: of load; memory is judged after the first quarter.
    """
    generator = Generator(server.port, mix())
    stop = asyncio.Event()
    async with sampled(server, every=max(0.5, seconds / SAMPLES)) as samples:
        await asyncio.gather(generator.open_loop(rate, stop), stop_after(seconds, stop))
    generator.close()

    memory = growth(samples, WARM_UP_SHARE * seconds)
    allowed = NOISE_MIB + SLOPE_MIB_PER_MINUTE * (1 - WARM_UP_SHARE) * seconds / 60
    figures = books(generator) | {
        "requests_per_second": round(generator.sent / seconds, 1),
        "answered_ms": percentiles_ms(generator.outcomes, lambda outcome: outcome.status is not None),
    }
    claims = [
        balanced(generator),
        nothing_lost(generator),
        only(generator, 200, 415, 422),
        Claim("the rate is kept", f"{generator.held_back} requests held back", generator.held_back == 0),
        Claim(
            f"memory grows by less than {allowed:.1f} MiB after the warm-up",
            f"{memory.total_mib:+.2f} on {memory.start_mib:.0f} MiB, {memory.slope_mib_per_minute:+.2f} a minute",
            memory.total_mib < allowed,
        ),
    ]
    return figures | growth_figures(samples, memory), claims


def mix() -> list[bytes]:
    """Twenty requests: crops of several sizes as JPEG, one with its quality, a bulk request, and two bad ones."""
    singles = [http_request("/v1/score", crops.jpeg(crops.eye(side))) for side in (24, 24, 32, 48, 96, 200)]
    file = io.BytesIO()
    np.save(file, np.stack([crops.eye()] * 8))
    others = [
        http_request("/v1/score?quality=true", crops.jpeg(crops.eye())),
        http_request("/v1/score/batch", file.getvalue(), "application/x-npy", "application/json"),
        http_request("/v1/score", b"this is no image"),
        http_request("/v1/score", crops.jpeg(crops.eye())[:300]),
    ]
    return [*singles, *singles[:4], *others[:2], *singles, *others[2:]]
