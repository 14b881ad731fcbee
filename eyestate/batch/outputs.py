"""The output of a batch job: Parquet parts, and a manifest of those that are complete.

A part is written under another name, brought to the disk and renamed, and only then entered in the manifest, which is
replaced in the same way. So whatever moment a job is killed at, the manifest names whole parts, and a part it does not
name is scored again under the same name: no row is lost and none is there twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eyestate.atomic import PREFIX, atomic_writer
from eyestate.errors import FINAL, InputChangedError, ModelChangedError, OutputError
from eyestate.extras import extra
from eyestate.schema import LoadedModel

with extra("client"):
    import pyarrow as pa
    import pyarrow.parquet as pq

SCHEMA: Final = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("key", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("state", pa.string()),
        pa.field("error", pa.string()),
        pa.field("message", pa.string()),
    ]
)

Count = Annotated[int, Field(ge=0)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartEntry(_Entry):
    """A part that was written: its rows by outcome, and the SHA-256 of its file.

    ``failed`` are rows with an error of their own, which is final. ``postponed`` are rows that failed for a reason
    outside of them, such as a service that did not answer; they are scored when the job is run again.
    """

    number: Count
    name: str
    sha256: str
    rows: Count
    open: Count
    closed: Count
    uncertain: Count
    failed: Count
    postponed: Count = 0


class Totals(_Entry):
    """Sums over the parts of a manifest."""

    rows: Count
    open: Count
    closed: Count
    uncertain: Count
    failed: Count
    postponed: Count = 0

    @classmethod
    def of(cls, parts: Sequence[PartEntry]) -> Self:
        return cls(**{field: sum(getattr(part, field) for part in parts) for field in cls.model_fields})


class Plan(_Entry):
    """What all manifests in a folder have in common: the input, and how it is divided."""

    kind: Literal["images", "list", "archives", "parquet"]
    rows: Count
    fingerprint: str
    rows_per_part: Annotated[int, Field(ge=1)]
    shards: Annotated[int, Field(ge=1)]


class Manifest(_Entry):
    """``_manifest.json``, or ``_manifest-<shard>.json`` if the job has several shards.

    ``complete`` where every row of the shard has a score or a final error. Version 1 did not tell final errors from
    others.
    """

    schema_version: Literal[1, 2] = 2
    plan: Plan
    shard: Count
    model: LoadedModel | None = None
    complete: bool = False
    totals: Totals = Totals(rows=0, open=0, closed=0, uncertain=0, failed=0)
    parts: tuple[PartEntry, ...] = ()


def write_part(folder: Path, number: int, shard: int, table: pa.Table) -> PartEntry:
    """Write a part atomically.

    Args:
        table: its rows, of ``SCHEMA``.

    Raises:
        OutputError: it cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue()
    name = f"part-{number:06d}.parquet"  # names sort as the rows do
    _write(folder / name, data, shard)
    states = Counter(table["state"].to_pylist())
    errors = Counter(code in FINAL for code in table["error"].to_pylist() if code is not None)
    return PartEntry(
        number=number,
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        rows=table.num_rows,
        failed=errors[True],
        postponed=errors[False],
        **{state: states[state] for state in ("open", "closed", "uncertain")},
    )


def same_model(first: LoadedModel | None, model: LoadedModel | None) -> LoadedModel | None:
    """The model of a job whose first scores are by ``first`` and newest by ``model``; None if there are none yet.

    Raises:
        ModelChangedError: they are not the same.
    """
    if first is not None and model is not None and first != model:
        raise ModelChangedError(
            f"the service now scores with {_name(model)}, and this output began with {_name(first)}: serve that again, "
            "or choose another --output to score everything with the new one"
        )
    return first or model


class Output:
    """An output folder, and the manifest of the one shard that writes to it here."""

    def __init__(self, folder: Path, path: Path, manifest: Manifest, lock: IO[str]) -> None:
        self._folder = folder
        self._lock = lock
        self._path = path
        self.manifest = manifest
        self.lost = 0  # parts in the manifest whose files were missing or damaged

    @property
    def done(self) -> frozenset[int]:
        """The numbers of the parts of which no row is postponed."""
        return frozenset(part.number for part in self.manifest.parts if not part.postponed)

    def begin(self, model: LoadedModel | None) -> None:
        """Drop parts whose files are missing or damaged, and note the model that other shards use."""
        kept = self.manifest.parts
        if self.manifest.schema_version == 1:
            kept = tuple(part for part in kept if not part.failed)
        parts = tuple(part for part in kept if _is_whole(self._folder / part.name, part.sha256))
        self.lost = len(kept) - len(parts)
        complete = self.manifest.complete and len(parts) == len(self.manifest.parts)
        first = same_model(self.manifest.model, model)
        self._replace(parts=parts, totals=Totals.of(parts), model=first, complete=complete, schema_version=2)

    def add(self, part: PartEntry, model: LoadedModel | None) -> None:
        """Record a part that was written, in place of an earlier one of its number.

        Raises:
            ModelChangedError: it was scored by another model than those before.
        """
        others = (other for other in self.manifest.parts if other.number != part.number)
        parts = sorted((*others, part), key=lambda part: part.number)
        self._replace(parts=tuple(parts), totals=Totals.of(parts), model=same_model(self.manifest.model, model))

    def finish(self) -> None:
        """Record that no part is missing; the output is complete unless rows are postponed.

        Raises:
            OutputError: parts were removed while others were written.
        """
        if removed := [part.name for part in self.manifest.parts if not (self._folder / part.name).is_file()]:
            raise OutputError(
                f"{len(removed)} parts, {removed[0]} among them, were removed from {self._folder} while the job ran: "
                "run the same command again to score them anew"
            )
        self._replace(complete=not self.manifest.totals.postponed)

    def _replace(self, **changes: Any) -> None:
        if not os.fstat(self._lock.fileno()).st_nlink:
            raise _removed(self._folder)
        self.manifest = self.manifest.model_copy(update=changes)
        data = self.manifest.model_dump_json(indent=2).encode()
        _write(self._path, data, self.manifest.shard)


@contextmanager
def open_output(folder: Path, plan: Plan, shard: int) -> Iterator[Output]:
    """Open the output folder, created if missing, for exclusive use by this run.

    Parts in the manifest that are missing or damaged are dropped from it.

    Raises:
        OutputError: another run is using it, it contains something else, or it cannot be written to.
        InputChangedError: it belongs to another input.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".lock-{shard}").open("w")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"another run is writing to {folder}: wait for it, or choose another --output") from None
        except OSError as error:
            raise OutputError(
                f"the file system of {folder} cannot lock files ({error.strerror}), so that two runs could not be kept "
                "apart: choose an --output on a local disk, or mount this one with locks"
            ) from None
        for draft in folder.glob(f"{PREFIX}{shard}-*"):
            draft.unlink(missing_ok=True)
        path = folder / (f"_manifest-{shard}.json" if plan.shards > 1 else "_manifest.json")
        manifests = {file: _read(file) for file in folder.glob("_manifest*.json")}
        for manifest in manifests.values():
            _check_plan(folder, manifest.plan, plan)
        if not manifests and any(folder.glob("part-*.parquet")):
            raise OutputError(f"{folder} holds parts without a manifest: choose another --output")
        output = Output(folder, path, manifests.get(path, Manifest(plan=plan, shard=shard)), lock)
        output.begin(next((manifest.model for manifest in manifests.values() if manifest.model), None))
        yield output


def _check_plan(folder: Path, begun: Plan, plan: Plan) -> None:
    if (begun.kind, begun.rows, begun.fingerprint) != (plan.kind, plan.rows, plan.fingerprint):
        raise InputChangedError(
            f"{folder} was begun with another input ({begun.rows:,} rows; now {plan.rows:,}, or a file's name, "
            "size or modification time differs): bring that input back, or choose another --output to score this one"
        )
    if begun != plan:
        raise OutputError(
            f"{folder} was begun with --rows-per-part {begun.rows_per_part} and {begun.shards} shards: go on with "
            "these, or choose another --output"
        )


def _read(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise OutputError(f"{path} is not a manifest that this version reads: choose another --output") from None


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _write(path: Path, data: Any, shard: int) -> None:
    if not path.parent.is_dir():
        raise _removed(path.parent)
    try:
        with atomic_writer(path, durable=True, owner=str(shard)) as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def _removed(folder: Path) -> OutputError:
    return OutputError(f"{folder} was removed while the job wrote to it: run the same command again to begin anew")


def _name(model: LoadedModel) -> str:
    return f"{model.name} {model.version} ({model.sha256[:12]}…)"
