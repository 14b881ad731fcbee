"""Scores parts of the input through the service and writes them as parts of the output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

from eyestate.batch.inputs import Part, Reader, Row
from eyestate.batch.outputs import SCHEMA, PartEntry, same_model, write_part
from eyestate.client import ANSWER, AsyncClient, ordered, served_model
from eyestate.client.bulk import Room
from eyestate.errors import ImageError
from eyestate.extras import extra
from eyestate.schema import LoadedModel

with extra("client"):
    import pyarrow as pa
    import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Service:
    """The service that scores, and the settings of its client; see ``AsyncClient``."""

    endpoint: str
    api_key: str | None = field(repr=False)
    verify: bool | Path
    patience: float
    in_flight: int
    rows_per_request: int


@dataclass(frozen=True, slots=True)
class Destination:
    """Where parts are written: the folder, the shard, and the model that its first parts were scored by."""

    folder: Path
    shard: int
    model: LoadedModel | None


class _Unit(NamedTuple):
    """Rows that are scored in one request."""

    part: Part
    first: int
    rows: list[Row]
    ends_part: bool


class _Scored(NamedTuple):
    table: pa.Table
    model: LoadedModel | None  # None if no row could be scored


def score_parts(
    parts: Iterable[Part],
    service: Service,
    destination: Destination,
    *,
    scored: Callable[[int], object],
    written: Callable[[PartEntry, LoadedModel | None], object],
) -> None:
    """Score parts and write them, with several requests in flight while the next rows are read.

    Args:
        scored: called with the number of rows that have been scored since the last call.
        written: called with each part once it is on the disk, and with the model that has scored so far.

    Raises:
        ServiceError: the service rejects the request, or is unavailable for longer than the patience.
        JobError: the input or the model changed, or the output cannot be written.
    """
    units = _units(parts, service.rows_per_request)
    try:
        asyncio.run(_score_parts(units, service, destination, scored, written))
    finally:
        units.close()


async def _score_parts(
    units: Iterable[_Unit],
    service: Service,
    destination: Destination,
    scored: Callable[[int], object],
    written: Callable[[PartEntry, LoadedModel | None], object],
) -> None:
    model, tables = destination.model, []
    async with AsyncClient(
        service.endpoint,
        api_key=service.api_key,
        verify=service.verify,
        patience=service.patience,
        in_flight=service.in_flight,
    ) as client:

        async def score(unit: _Unit) -> tuple[_Unit, _Scored]:
            return unit, await _score(client, unit)

        async with aclosing(ordered(score, units, 2 * service.in_flight)) as results:
            async for unit, result in results:
                model = same_model(model, result.model)
                tables.append(result.table)
                scored(result.table.num_rows)
                if unit.ends_part:
                    table = pa.concat_tables(tables).replace_schema_metadata(_metadata(model))
                    tables.clear()
                    number, shard = unit.part.number, destination.shard
                    written(await asyncio.to_thread(write_part, destination.folder, number, shard, table), model)


def _units(parts: Iterable[Part], rows_per_request: int) -> Generator[_Unit, None, None]:
    reader = Reader()
    try:
        for part in parts:
            place, last, rows, room = part.first, part.first + part.rows, list[Row](), Room(rows_per_request)
            for row in reader.rows(part):
                if not room.take(row.image if isinstance(row.image, bytes) else b""):
                    yield _Unit(part, place, rows, ends_part=False)
                    place, rows, room = place + len(rows), [], Room(rows_per_request)
                    room.take(row.image if isinstance(row.image, bytes) else b"")
                rows.append(row)
            assert place + len(rows) == last
            yield _Unit(part, place, rows, ends_part=True)
    finally:
        reader.close()


async def _score(client: AsyncClient, unit: _Unit) -> _Scored:
    """The output rows of a unit: the service's results, and errors for the rows that could not be read."""
    sent = [row.image for row in unit.rows if isinstance(row.image, bytes)]
    answers = await client.score_table(sent) if sent else ANSWER.empty_table()
    answered = count()
    places = [next(answered) if isinstance(row.image, bytes) else None for row in unit.rows]
    answers_in_place = answers.take(pa.array(places, pa.int32()))
    unread = [row.image if isinstance(row.image, ImageError) else None for row in unit.rows]
    codes = pa.array([error and error.code for error in unread], pa.string())
    messages = pa.array([error and _text(error.message) for error in unread], pa.string())
    table = pa.table(
        [
            pa.array(range(unit.first, unit.first + len(unit.rows)), pa.int64()),
            pa.array([row.source and _text(row.source) for row in unit.rows], pa.string()),
            pa.array([_text(row.key) for row in unit.rows], pa.string()),
            answers_in_place["score"],
            answers_in_place["state"],
            pc.coalesce(answers_in_place["error"], codes),
            pc.coalesce(answers_in_place["message"], messages),
        ],
        schema=SCHEMA,
    )
    return _Scored(table, served_model(answers) if answers.schema.metadata else None)


def _text(name: str) -> str:
    """The name with non-UTF-8 bytes, which file names may have but Parquet may not, escaped as ``\\udcff``."""
    return name.encode(errors="backslashreplace").decode()


def _metadata(model: LoadedModel | None) -> dict[str, str]:
    return {f"model_{field}": value for field, value in model} if model else {}
