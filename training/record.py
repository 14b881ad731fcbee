"""``python -m training.record``: record an edit of the stages' code in dvc.lock without running a stage.

DVC cannot tell a renamed variable from another loss function: any edit of its code makes a stage out of date. Where an
edit changes no result, this records the code as it is now; missing data and outputs keep their recorded hashes. Where
anything else changed (data, parameters, commands, outputs), it refuses: those stages must run.

Only the stages that make what ships are recorded. Of the others, such as the baseline, dvc.lock says what they were
last run with.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # between DVC and pygtrie
    from dvc.repo import Repo

CODE: Final = ("eyestate", "training")  # folders


def shipping(repo: Repo) -> list[Any]:
    """The stages that render model cards, and all that they depend on; all stages of a pipeline without cards."""
    stages = list(repo.index.stages)
    found = [stage for stage in stages if stage.addressing.startswith("card")] or stages
    for stage in found:
        found += [earlier for earlier in repo.index.graph.successors(stage) if earlier not in found]
    return [stage for stage in stages if stage in found]


def outdated(repo: Repo) -> Iterator[str]:
    """What in the pipeline differs from dvc.lock, besides code and missing files, a line each."""
    for stage in shipping(repo):
        if stage.changed_stage():
            yield f"{stage.addressing}: the command changed"
        for part in (*stage.deps, *stage.outs):
            for name, change in part.status().items():
                if change != "deleted" and Path(name).parts[0] not in CODE:
                    yield f"{stage.addressing}: {name} {change}"


def record(repo: Repo) -> None:
    """Write the hashes of everything that is there to dvc.lock."""
    stages = shipping(repo)
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
