"""Serve the labelling page: the queue of crops to ask about, where the answers go, and the server."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvicorn

from training.data.datasets import Crop, DataError, load_crops
from training.data.labels import Answer, Label, read_answers, read_labels, write_answers
from training.label.app import Task, app
from training.label.store import Store

ANY_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104  # names of all addresses that this machine has


def read_queue(queue_file: Path, crops: Path, budget: int) -> tuple[list[Label], list[Crop]]:
    """The questions in the order of the file, and their images.

    Raises:
        DataError: the queue is empty, longer than the budget, or names crops that are not there.
    """
    queue = read_labels(queue_file)
    if not queue:
        raise DataError(f"{queue_file} is empty: there is nothing to label")
    if len(queue) > budget:
        raise DataError(f"{queue_file} has {len(queue)} crops; people are asked about {budget} at most (--budget)")
    by_name = {crop.name: crop for crop in load_crops(crops).crops}
    missing = [item.file for item in queue if item.file not in by_name]
    if missing:
        raise DataError(f"{len(missing)} crops of {queue_file} are not in {crops}, such as {missing[0]}")
    return queue, [by_name[item.file] for item in queue]


def open_task(queue: Sequence[Label], crops: Sequence[Crop], output: Path, queue_file: Path) -> Task:
    """The task of the page, with its store in the output folder.

    Raises:
        DataError: the folder holds answers that did not come from the page, or the store cannot be used.
    """
    path, answers = output / "answers.sqlite3", output / "answers.csv"
    if answers.exists() and not path.exists():
        raise DataError(
            f"{answers} did not come from the page, which would replace it; move it or choose another --output"
        )
    go_on = (
        "dvc repro"
        if "DVC_STAGE" in os.environ
        else f"python -m training fine-tune \\\n  --labels {queue_file.with_name('labels.csv')} \\\n"
        f"  --answers {answers} \\\n  --output runs/fine_tuned"
    )
    return Task(queue, crops, Store(path, crops), answers, go_on)


def answer_by_file(queue: Sequence[Label], answers_file: Path, output: Path) -> str:
    """Write the answers that a file gives to the queue; a crop without one is written as nobody's.

    Returns:
        A line for people: how many crops were decided.

    Raises:
        DataError: the file is no CSV of answers, answers none of the queue, or the page's answers would be replaced.
    """
    known = read_answers(answers_file)
    found = [item.file for item in queue if item.file in known]
    if not found:
        raise DataError(f"{answers_file} answers none of the {len(queue)} crops in the queue")
    if (output / "answers.sqlite3").exists():
        raise DataError(
            f"{output} holds answers from the page, which would be replaced; move it or choose another --output"
        )
    answers = [known.get(item.file, Answer(item.file, None, 0, 0)) for item in queue]
    write_answers(output / "answers.csv", answers)
    outcomes = Counter("missing" if item.file not in known else known[item.file].label for item in queue)
    decided = len(found) - outcomes[None]
    return (
        f"{decided} of {len(queue)} crops decided, {outcomes[None]} could not be told, {outcomes['missing']} missing "
        f"in {answers_file}; wrote {output / 'answers.csv'}"
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        DataError: the port is taken, or the address is none of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise DataError(f"cannot listen on {host}, port {port}: {error.strerror}; choose another --port") from None


def server(task: Task, hosts: Sequence[str] = ()) -> uvicorn.Server:
    """The server of the page; it waits two seconds at most for requests under way when it is stopped.

    Browsers reach it by any address, as localhost, by the machine's name, and by those in ``hosts``.
    """
    config = uvicorn.Config(
        app(task, ("localhost", socket.gethostname(), *hosts)),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
