"""``python -m training.record``: record an edit of the stages' code in dvc.lock without running a stage.

DVC cannot tell a renamed variable from another loss function: any edit of its code makes a stage out of date. Where an
edit changes no result, this records the code as it is now; missing data and outputs keep their recorded hashes. Where
anything else changed (data, parameters, commands, outputs), it refuses: those stages must run.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # between DVC and pygtrie
    from dvc.repo import Repo

CODE: Final = ("eyestate", "training")  # folders


def outdated(repo: Repo) -> Iterator[str]:
    """What in the pipeline differs from dvc.lock, besides code and missing files, a line each."""
    for stage in repo.index.stages:
        if stage.changed_stage():
            yield f"{stage.addressing}: the command changed"
        for part in (*stage.deps, *stage.outs):
            for name, change in part.status().items():
                if change != "deleted" and Path(name).parts[0] not in CODE:
                    yield f"{stage.addressing}: {name} {change}"


def record(repo: Repo) -> None:
    """Write the hashes of everything that is there to dvc.lock."""
    stages = list(repo.index.stages)
    with repo.lock:
        for stage in stages:
            stage.save(allow_missing=True, run_cache=False)
        stages[0].dvcfile.dump_stages(stages, update_pipeline=False)


def main() -> None:
    """Record the code, or exit with what is out of date otherwise."""
    with Repo() as repo:
        if changes := list(outdated(repo)):
            sys.exit("\n".join([*changes, "run `make train`: results may have changed"]))
        record(repo)


if __name__ == "__main__":
    main()
