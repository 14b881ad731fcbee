"""The process that sends hostile requests: ``python -m loadtests.chaos.attackers PORT MODEL PATIENCE``.

It is one of its own, at a low priority, since attackers are on other machines: what they have to compute must not make
good requests look slow. Each line of its input, ``{"requests": N, "seconds": S}``, is an attack; its output is a line
each second with all that has become of them, so that little is lost with it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from loadtests.chaos.attacks import SMUGGLED, Attack, Attacks
from tools.harness.load import run

NICE: Final = 10
SHOWN: Final = 20  # faults; the others are only counted
_MOST_AT_ONCE: Final = 1_000  # connections
_PAUSE_SECONDS: Final = 0.02  # between pieces
_REPORT_SECONDS: Final = 1.0
_CANARY: Final = "canary"


@dataclass(slots=True)
class Findings:
    """What became of the attacks.

    Attributes:
        kinds: how many there were of each.
        statuses: of the answers.
        unread: how many could not be read: the client left, or the service closed the connection while it still sent.
        faulty: how many went wrong.
        faults: the first of them.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    unread: int = 0
    faulty: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Count a fault."""
        self.faulty += 1
        if len(self.faults) < SHOWN:
            self.faults.append(what)

    def to_json(self) -> bytes:
        """In one line."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Of ``to_json``."""
        told = json.loads(line)
        statuses = Counter({int(status): count for status, count in told.pop("statuses").items()})
        return cls(Counter(told.pop("kinds")), statuses, **told)


class Attackers:
    """The process, as who starts it sees it.

    Attributes:
        findings: of all attacks so far.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.findings = Findings()
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, port: int, model: str, patience: float) -> Self:
        """Start it.

        Args:
            port: of the service.
            model: the name of what it serves.
            patience: seconds that each attack may take.
        """
        command = (sys.executable, "-m", __name__, str(port), model, str(patience))
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=2**20))

    def attack(self, requests: int, seconds: float) -> None:
        """Have it send so many attacks, spread over some seconds."""
        assert self._process.stdin
        if self._process.returncode is None:
            self._process.stdin.write(json.dumps({"requests": requests, "seconds": seconds}).encode() + b"\n")

    async def finish(self) -> None:
        """Wait for what becomes of all attacks."""
        assert self._process.stdin
        self._process.stdin.close()
        await self._reading
        if (code := await self._process.wait()) not in (0, -signal.SIGTERM):
            self.findings.fault(f"the attackers ended with code {code}")

    async def stop(self) -> None:
        """End it at once, if it has not ended."""
        if self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            self.findings = Findings.from_json(line)


async def obey(port: int, model: str, patience: float) -> None:
    """Attack as the input says, until its end, and tell what becomes of it."""
    reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    attacks, findings = iter(Attacks(model)), Findings()
    reporting = asyncio.create_task(_report(findings))
    async with asyncio.TaskGroup() as under_way:
        async for line in reader:
            told = json.loads(line)
            chosen = itertools.islice(attacks, told["requests"])
            under_way.create_task(attack(port, chosen, told["seconds"] / told["requests"], patience, findings))
    reporting.cancel()
    sys.stdout.buffer.write(findings.to_json())


async def _report(findings: Findings) -> None:
    while True:
        await asyncio.sleep(_REPORT_SECONDS)
        sys.stdout.buffer.write(findings.to_json())
        sys.stdout.buffer.flush()


async def attack(port: int, attacks: Iterable[Attack], pause: float, patience: float, findings: Findings) -> None:
    """Send attacks, one each ``pause`` seconds over a connection of its own, and wait for what becomes of them."""
    started, room = time.perf_counter(), asyncio.Semaphore(_MOST_AT_ONCE)

    async def send(each: Attack) -> None:
        async with room:
            await _send(port, each, patience, findings)

    async with asyncio.TaskGroup() as under_way:
        for number, each in enumerate(attacks):
            await asyncio.sleep(started + number * pause - time.perf_counter())
            under_way.create_task(send(each))


async def _send(port: int, each: Attack, patience: float, findings: Findings) -> None:
    findings.kinds[each.kind] += 1
    canary = f"{_CANARY}-{findings.kinds.total()}"
    try:
        async with asyncio.timeout(patience):
            stream = await _conversation(port, each, canary)
        if stream is None:
            findings.unread += 1
            return
        answers = [*read_answers(stream, without_body=each.pieces[0].startswith(b"HEAD "))]
    except TimeoutError:
        findings.fault(f"{each.kind}: no end within {patience:g} s: {each.pieces[0][:200]!r}")
        return
    except Exception as error:  # whatever it is: it must not end the others
        findings.fault(f"{each.kind}: {type(error).__name__}: {error}")
        return
    findings.statuses.update(status for status, request_id in answers if request_id != canary)
    if fault := fault_of(each, [request_id for _, request_id in answers], canary):
        findings.fault(f"{each.kind}: {fault}: {each.pieces[0][:200]!r}")


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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who has started this process, and closes its input
    os.nice(NICE)
    run(obey(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
