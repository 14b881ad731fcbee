"""Hostile requests on all routes beside those of well-behaved users, who must not notice much of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from loadtests.chaos.attackers import Attackers, Findings
from loadtests.chaos.memory import Sample, memory_figures, memory_growth, memory_sampled
from loadtests.chaos.requests import small
from tools.harness.claims import Claim
from tools.harness.load import LoadGenerator, Outcome, percentiles_ms
from tools.harness.outcomes import all_accounted_for, format_counts, none_lost, only_statuses, request_counts
from tools.harness.servers import Server

ROUNDS: Final = 30  # at most: of an attack and a pause after it, in which the good requests are alone
LEAST_SECONDS: Final = 10.0  # of a round, if the run is not shorter
ATTACK_SHARE: Final = 0.75  # of a round
MEMORY_MIB: Final = 32  # by which it may be more at the end than it was before the first attack
SLOWER: Final = 2.0  # p99 of good requests, beside attacks, against that of those alone
NOISE_MS: Final = 2.0  # of a p99: what a process waits for a core that another one has, in Linux's scheduler
_WARM_UP_SECONDS: Final = 10.0  # of good requests, before the first attack
_AFTERMATH_SECONDS: Final = 1.0  # of an attack, in which good requests are neither beside it nor alone
_QUIET_SECONDS: Final = 30.0  # at the end, until memory is given back
_PATIENCE_SECONDS: Final = 20.0  # beyond the timeout of the service, for an answer or the end of the connection

Found = tuple[dict[str, Any], list[Claim]]


class Goal(NamedTuple):
    """What a run is to reach: ``requests`` hostile ones in ``seconds``, in some ``rounds``."""

    requests: int
    seconds: float
    rounds: int


async def hostile(
    server: Server,
    *,
    model: str,
    requests: int,
    rate: float,
    seconds: float,
    timeout: float,
    checkpoint: Callable[[Found], object] = lambda _: None,
) -> Found:
    """Attack in rounds, each with a pause, so that a busy machine slows down good requests of both kinds alike.

    SIGINT or SIGTERM ends the run early; what was found until then is judged all the same.

    Args:
        server: the service.
        model: the name of what it serves.
        requests: hostile ones, over all rounds.
        rate: good requests per second.
        seconds: of all rounds.
        timeout: EYESTATE_TIMEOUT of the service in seconds.
        checkpoint: is called after each round with what has been found so far.

    Returns:
        The figures for the report, and the claims.
    """
    goal = Goal(requests, seconds, max(1, min(ROUNDS, int(seconds / LEAST_SECONDS))))
    each = seconds / goal.rounds
    good = LoadGenerator(server.port, small(model))
    enough, stop = asyncio.Event(), asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, enough.set)
    attacked: list[tuple[float, float]] = []  # begin and end of each attack
    attackers = await Attackers.start(server.port, model, timeout + _PATIENCE_SECONDS)
    async with memory_sampled(server, every=max(0.5, each / 10)) as samples:
        load = asyncio.create_task(good.open_loop(rate, stop))
        await _until(time.perf_counter() + min(_WARM_UP_SECONDS, each), enough)
        before = server.memory().anonymous
        begun = time.perf_counter()

        def found(*, is_over: bool) -> Found:
            return verdict(
                good,
                attackers.findings,
                attacked=attacked,
                samples=samples,
                before=before,
                goal=goal,
                is_over=is_over,
            )

        for number in range(goal.rounds):
            if enough.is_set():
                break
            share = requests * (number + 1) // goal.rounds - requests * number // goal.rounds
            started = time.perf_counter()
            attackers.attack(share, each * ATTACK_SHARE)
            await _until(begun + (number + ATTACK_SHARE) * each, enough)
            attacked.append((started, time.perf_counter()))
            await _until(begun + (number + 1) * each, enough)
            checkpoint(found(is_over=False))
        stop.set()
        await load
        interrupted = asyncio.create_task(enough.wait())
        finishing = asyncio.create_task(attackers.finish())
        await asyncio.wait((interrupted, finishing), return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        await attackers.stop()
        await finishing
        await _until(time.perf_counter() + min(_QUIET_SECONDS, seconds), enough)
        samples.append(Sample(round(time.perf_counter() - begun, 2), server.memory().anonymous))
    good.close()
    return found(is_over=not enough.is_set())


async def _until(moment: float, enough: asyncio.Event) -> None:
    """Wait until a moment of ``time.perf_counter``, or until it is enough."""
    try:
        async with asyncio.timeout(moment - time.perf_counter()):
            await enough.wait()
    except TimeoutError:
        pass


def verdict(
    good: LoadGenerator,
    findings: Findings,
    *,
    attacked: Sequence[tuple[float, float]],
    samples: Sequence[Sample],
    before: float,
    goal: Goal,
    is_over: bool,
) -> Found:
    """Figures and claims, of a run that may not be over.

    Args:
        good: what became of the good requests.
        findings: what became of the attacks.
        attacked: begin and end of each round's attack.
        samples: of memory.
        before: MiB before the first attack.
        goal: of the run.
        is_over: whether it came to its end.
    """
    memory, after = memory_growth(samples, warm_up=0), samples[-1].mib
    answered = [outcome for outcome in good.outcomes if outcome.status == 200]
    beside = percentiles_ms(answered, lambda outcome: is_beside(outcome, attacked))
    alone = percentiles_ms(answered, lambda outcome: is_alone(outcome, attacked))
    sent = findings.kinds.total()
    figures = request_counts(good) | {
        "hostile": {
            "kinds": dict(findings.kinds),
            "answered": dict(sorted(findings.statuses.items())),
            "unread": findings.unread,
        },
        "rounds": f"{len(attacked)} of {goal.rounds}",
        "faults": findings.faults,
        "beside_attacks_ms": beside,
        "alone_ms": alone,
        "memory_before_mib": round(before, 1),
        "memory_after_mib": round(after, 1),
    }
    failed = {str(status): count for status, count in findings.statuses.items() if status >= 500 and status != 503}
    claims = [
        Claim("the run came to its end", f"{len(attacked)} of {goal.rounds} rounds", is_over),
        Claim(f"{goal.requests:,} hostile requests in {goal.seconds:g} s", f"{sent:,}", sent >= goal.requests),
        Claim("no answer is 5xx, but for 503", format_counts(failed), not failed),
        Claim(
            "each gets one answer, and nothing hangs",
            f"{findings.faulty}: {'; '.join(findings.faults[:3])}" if findings.faulty else "yes",
            not findings.faulty,
        ),
        all_accounted_for(good),
        none_lost(good),
        only_statuses(good, 200, 429),
        Claim(
            f"p99 of good requests is at most {SLOWER:g} times what it is alone, and {NOISE_MS:g} ms",
            "none" if beside is None or alone is None else f"{beside['p99']:.1f} ms, alone {alone['p99']:.1f} ms",
            beside is not None and alone is not None and beside["p99"] <= SLOWER * alone["p99"] + NOISE_MS,
        ),
        Claim(
            f"memory comes back to within {MEMORY_MIB} MiB",
            f"{after - before:+.1f} on {before:.0f} MiB, at most {memory.most_mib:.0f} meanwhile",
            after - before < MEMORY_MIB,
        ),
    ]
    return figures | memory_figures(samples, memory), claims


def is_beside(outcome: Outcome, attacked: Sequence[tuple[float, float]]) -> bool:
    """Whether a good request was sent while an attack went on; begin and end of each are given."""
    return any(begin <= outcome.sent <= end for begin, end in attacked)


def is_alone(outcome: Outcome, attacked: Sequence[tuple[float, float]]) -> bool:
    """Whether a good request was sent after the first attack, and not during one or right behind it."""
    return (
        bool(attacked)
        and attacked[0][0] < outcome.sent
        and not is_beside(outcome, [(begin, end + _AFTERMATH_SECONDS) for begin, end in attacked])
    )
