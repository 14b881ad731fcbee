"""A batch job from input to output."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eyestate.batch import engine
from eyestate.batch.engine import Destination, Service
from eyestate.batch.inputs import Input, open_input
from eyestate.batch.outputs import Manifest, PartEntry, Plan, open_output
from eyestate.batch.parquet import Columns
from eyestate.batch.progress import Progress
from eyestate.errors import InputChangedError, InputError
from eyestate.schema import LoadedModel


@dataclass(frozen=True, slots=True)
class Job:
    """What to score, through which service, and where to write. Part ``n`` belongs to shard ``n`` modulo ``shards``."""

    inputs: tuple[str, ...]
    output: Path
    service: Service
    columns: Columns = field(default_factory=Columns)
    rows_per_part: int = 10_000
    shard: int = 0
    shards: int = 1
    engine: Literal["local", "ray"] = "local"


def run(job: Job, progress: Progress) -> Manifest:
    """Score what earlier runs have not or have postponed, and return the manifest of the finished job.

    Raises:
        ServiceError: the service rejects the request, or is unavailable for longer than the patience.
        JobError: the input, the output or the model does not fit the job; the message says what to do.
        MissingExtraError: the engine is not installed.
    """
    _check_apart(job)
    progress.note("reading the input …")
    source = open_input(job.inputs, job.columns)
    if source.left_out:
        progress.note(str(source.left_out))
    plan = Plan(
        kind=source.kind,
        rows=source.rows,
        fingerprint=source.fingerprint,
        rows_per_part=job.rows_per_part,
        shards=job.shards,
    )
    with open_output(job.output, plan, job.shard) as output:
        if output.lost:
            progress.note(f"{output.lost} parts are missing or damaged and are scored again")
        rows = _rows(source, job)
        done = output.done
        progress.begin(rows, sum(part.rows for part in output.manifest.parts if part.number in done))
        if output.manifest.complete:
            return output.manifest
        mine = (part for part in source.parts(job.rows_per_part) if part.number % job.shards == job.shard)
        pending = (part for part in mine if part.number not in done)
        destination = Destination(job.output, job.shard, output.manifest.model)
        if job.engine == "ray":
            from eyestate.batch import ray_engine  # noqa: PLC0415  # Ray takes seconds to import

            def written(part: PartEntry, model: LoadedModel | None) -> None:
                output.add(part, model)
                progress.advance(part.rows)

            ray_engine.score_parts(pending, job.service, destination, written=written)
        else:
            engine.score_parts(pending, job.service, destination, scored=progress.advance, written=output.add)
        if output.manifest.totals.rows != rows:
            raise InputChangedError("the input changed while it was being read; run the job again once it is stable")
        output.finish()
        return output.manifest


def _check_apart(job: Job) -> None:
    """Refuse an output inside an input folder: it would become input of the next run."""
    for name in job.inputs:
        if Path(name).is_dir() and job.output.resolve().is_relative_to(Path(name).resolve()):
            raise InputError(f"the output {job.output} lies in the input {name}: choose an --output elsewhere")


def _rows(source: Input, job: Job) -> int:
    """The number of rows in the parts of the job's shard."""
    parts = range(job.shard, -(-source.rows // job.rows_per_part), job.shards)
    return sum(min(job.rows_per_part, source.rows - number * job.rows_per_part) for number in parts)
