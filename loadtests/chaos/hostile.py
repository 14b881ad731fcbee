"""Hostile requests on all routes beside those of well-behaved users, who must not notice much of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loadtests.chaos.attacks import SMUGGLED, Attack, Attacks
from loadtests.chaos.memory import memory_figures, memory_growth, memory_sampled
from loadtests.chaos.requests import small
from tools.harness.claims import Claim
from tools.harness.load import LoadGenerator, Outcome, percentiles_ms
from tools.harness.outcomes import all_accounted_for, format_counts, none_lost, only_statuses, request_counts
from tools.harness.servers import Server

ROUNDS: Final = 30  # of an attack and a pause after it, in which the good requests are alone
ATTACK_SHARE: Final = 0.75  # of a round
MEMORY_MIB: Final = 32  # by which it may be more at the end than it was after the first round
SLOWER: Final = 2.0  # p99 of good requests, beside attacks, against that of those alone
NOISE_MS: Final = 20.0  # of a p99
_QUIET_SECONDS: Final = 15.0  # at the end, until memory is given back
_PATIENCE_SECONDS: Final = 20.0  # beyond the timeout of the service, for an answer or the end of the connection
_PAUSE_SECONDS: Final = 0.02  # between pieces
_SHOWN: Final = 20
_CANARY: Final = "canary"


@dataclass(slots=True)
class Findings:
    """What became of the attacks.

    Attributes:
        patience: seconds that each may take.
        kinds: how many there were of each.
        statuses: of the answers.
        unread: how many could not be read: the client left, or the service closed the connection while it still sent.
        faults: what went wrong.
    """

    patience: float
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    unread: int = 0
    faults: list[str] = field(default_factory=list)


async def hostile(
    server: Server, *, model: str, requests: int, rate: float, seconds: float, timeout: float
) -> tuple[dict[str, Any], list[Claim]]:
    """Attack in rounds, each with a pause, so that a busy machine slows down good requests of both kinds alike.

    Args:
        server: the service.
        model: the name of what it serves.
        requests: hostile ones, over all rounds.
        rate: good requests per second.
        seconds: of all rounds.
        timeout: EYESTATE_TIMEOUT of the service in seconds.

    Returns:
        The figures for the report, and the claims.
    """
    findings = Findings(timeout + _PATIENCE_SECONDS)
    attacks = iter(Attacks(model))
    good = LoadGenerator(server.port, small(model))
    stop = asyncio.Event()
    begun = time.perf_counter()
    attacked: list[tuple[float, float]] = []  # begin and end of each attack
    each = seconds / ROUNDS
    async with memory_sampled(server, every=max(0.5, each / 10)) as samples, asyncio.TaskGroup() as under_way:
        load = under_way.create_task(good.open_loop(rate, stop))
        for number in range(ROUNDS):
            started = time.perf_counter()
            chosen = itertools.islice(attacks, requests // ROUNDS)
            under_way.create_task(attack(server.port, [*chosen], each * ATTACK_SHARE, findings))
            await asyncio.sleep(begun + (number + ATTACK_SHARE) * each - time.perf_counter())
            attacked.append((started, time.perf_counter()))
            await asyncio.sleep(begun + (number + 1) * each - time.perf_counter())
        stop.set()
        await load
        await asyncio.sleep(min(_QUIET_SECONDS, seconds / 4))
    good.close()

    memory = memory_growth(samples, warm_up=each)
    before, after = [sample.mib for sample in samples if sample.seconds <= each][-1], samples[-1].mib
    answered = [outcome for outcome in good.outcomes if outcome.status == 200]
    beside = percentiles_ms(answered, lambda outcome: beside_attack(outcome, attacked))
    alone = percentiles_ms(answered, lambda outcome: not beside_attack(outcome, attacked))
    figures = request_counts(good) | {
        "hostile": {
            "kinds": dict(findings.kinds),
            "answered": dict(sorted(findings.statuses.items())),
            "unread": findings.unread,
        },
        "faults": findings.faults[:_SHOWN],
        "beside_attacks_ms": beside,
        "alone_ms": alone,
    }
    failed = {str(status): count for status, count in findings.statuses.items() if status >= 500 and status != 503}
    claims = [
        Claim(
            f"{requests:,} hostile requests", f"{findings.kinds.total():,}", findings.kinds.total() >= requests * 0.99
        ),
        Claim("no answer is 5xx, but for 503", format_counts(failed), not failed),
        Claim("each gets one answer, and nothing hangs", "; ".join(findings.faults[:3]) or "yes", not findings.faults),
        all_accounted_for(good),
        none_lost(good),
        only_statuses(good, 200, 429),
        Claim(
            f"p99 of good requests is at most {SLOWER:g} times what it is alone",
            "none" if beside is None or alone is None else f"{beside['p99']:,.0f} ms, alone {alone['p99']:,.0f} ms",
            beside is not None and alone is not None and beside["p99"] <= SLOWER * alone["p99"] + NOISE_MS,
        ),
        Claim(
            f"memory comes back to within {MEMORY_MIB} MiB",
            f"{after - before:+.1f} on {before:.0f} MiB, at most {memory.most_mib:.0f} meanwhile",
            after - before < MEMORY_MIB,
        ),
    ]
    return figures | memory_figures(samples, memory), claims


async def attack(port: int, attacks: Sequence[Attack], seconds: float, findings: Findings) -> None:
    """Send attacks, spread over some seconds, each over a connection of its own, and wait for what becomes of them."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as under_way:
        for number, each in enumerate(attacks):
            await asyncio.sleep(started + number * seconds / len(attacks) - time.perf_counter())
            under_way.create_task(_send(port, each, findings))


async def _send(port: int, each: Attack, findings: Findings) -> None:
    findings.kinds[each.kind] += 1
    canary = f"{_CANARY}-{findings.kinds.total()}"
    try:
        async with asyncio.timeout(findings.patience):
            stream = await _conversation(port, each, canary)
    except TimeoutError:
        findings.faults.append(f"{each.kind}: no end within {findings.patience:g} s: {each.pieces[0][:200]!r}")
        return
    except OSError as error:
        findings.faults.append(f"{each.kind}: no connection: {error}")
        return
    if stream is None:
        findings.unread += 1
        return
    try:
        answers = [*read_answers(stream, without_body=each.pieces[0].startswith(b"HEAD "))]
    except ValueError as error:
        findings.faults.append(f"{each.kind}: {error}")
        return
    findings.statuses.update(status for status, request_id in answers if request_id != canary)
    if fault := fault_of(each, [request_id for _, request_id in answers], canary):
        findings.faults.append(f"{each.kind}: {fault}: {each.pieces[0][:200]!r}")


async def _conversation(port: int, each: Attack, canary: str) -> bytes | None:
    """All that the service says to an attack and, if that was a whole request, to a good one behind it.

    Returns:
        None where it could not be read (``Findings.unread``).

    Raises:
        OSError: the service takes no connection.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in each.pieces:
            if writer.is_closing():
                break
            writer.write(piece)
            await writer.drain()
            if len(each.pieces) > 1:
                await asyncio.sleep(_PAUSE_SECONDS)
        if each.leaves:
            writer.transport.abort()
            return None
        if each.whole and not writer.is_closing():
            end = "Connection: close\r\n\r\n"
            writer.write(f"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: {canary}\r\n{end}".encode())
        return await reader.read()
    except ConnectionError:
        return None
    finally:
        writer.close()


def read_answers(stream: bytes, *, without_body: bool = False) -> Iterator[tuple[int, str]]:
    """Status and request id of each answer in what a connection received, interim ones left out.

    Args:
        stream: all bytes.
        without_body: whether the first answer has none, being one to HEAD.

    Raises:
        ValueError: there is something else.
    """
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        if not end or not line.startswith(b"HTTP/1.1 "):
            raise ValueError(f"this is no answer: {head[:80]!r}")
        status = int(line[9:12])
        headers = {name.lower(): value.strip() for name, _, value in (header.partition(b":") for header in fields)}
        if status < 200:
            continue
        length = 0 if without_body else int(headers[b"content-length"])
        if len(stream) < length:
            raise ValueError("an answer ends in the middle")
        stream, without_body = stream[length:], False
        yield status, headers.get(b"x-request-id", b"").decode()


def fault_of(each: Attack, ids: list[str], canary: str) -> str | None:
    """What is wrong with the answers to an attack; None if nothing is.

    Args:
        each: the attack.
        ids: of the answered requests, in the order of the answers.
        canary: the id of the good request behind the attack.
    """
    if any(request_id.startswith(SMUGGLED) for request_id in ids):
        return "a smuggled request was answered"
    if canary in ids:
        answered = ids.index(canary)
        return (
            None if answered == each.requests and ids[-1] == canary else f"{answered} answers before the next request"
        )
    return None if 1 <= len(ids) <= each.requests else f"{len(ids)} answers to {each.requests} requests"


def beside_attack(outcome: Outcome, attacked: Iterable[tuple[float, float]]) -> bool:
    """Whether a good request was sent while an attack went on; begin and end of each are given."""
    return any(begin <= outcome.sent <= end for begin, end in attacked)
