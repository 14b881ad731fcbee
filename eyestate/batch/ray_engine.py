"""``engine.py`` on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from eyestate.batch import engine
from eyestate.batch.engine import Destination, Service
from eyestate.batch.inputs import Part
from eyestate.batch.outputs import PartEntry
from eyestate.errors import EyestateError, JobError
from eyestate.extras import extra
from eyestate.schema import LoadedModel

with extra("ray"):
    import ray
    import ray.data


def score_parts(
    parts: Iterable[Part],
    service: Service,
    destination: Destination,
    *,
    written: Callable[[PartEntry, LoadedModel | None], object],
) -> None:
    """As ``engine.score_parts``, with each part a task of its own.

    Runs on the cluster that Ray finds (``RAY_ADDRESS``, or one started on this machine), otherwise on local cores.
    The machines must see input and output under the same paths and have eyestate installed.
    """
    rows = [{"part": pickle.dumps(part)} for part in parts]
    if not rows:
        return
    begun_here = not ray.is_initialized()
    if begun_here:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # the job shows its own
    try:
        tasks = ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in tasks.map(partial(_score_part, service=service, destination=destination)).iter_rows():
            if row["error"]:
                raise JobError(f"{row['error']}; what is scored is kept, run the same command to go on")
            model = row["model"] and LoadedModel.model_validate_json(row["model"])
            written(PartEntry.model_validate_json(row["entry"]), model)
    finally:
        if begun_here:
            ray.shutdown()


def _score_part(row: dict[str, Any], service: Service, destination: Destination) -> dict[str, str]:
    """One task. It returns its error, since Ray would wrap an exception into pages of traceback."""
    answer = {"entry": "", "model": "", "error": ""}

    def written(entry: PartEntry, model: LoadedModel | None) -> None:
        answer.update(entry=entry.model_dump_json(), model=model.model_dump_json() if model else "")

    try:
        part = pickle.loads(row["part"])  # noqa: S301  # pickled above
        engine.score_parts([part], service, destination, scored=lambda _: None, written=written)
    except EyestateError as error:
        answer["error"] = error.message
    return answer
