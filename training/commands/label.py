"""``python -m training label``: ask people about the crops in a queue, on a page or by a file of answers."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click
import uvicorn

from training.data.datasets import Crop, DataError, data_dir, load_crops
from training.data.labels import BUDGET, Answer, Label, read_answers, read_labels, write_answers
from training.labelling.page.app import Task, app
from training.labelling.page.store import Store, annotator_name

LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")


@click.command(
    epilog="""\b
Examples:
  python -m training label
  python -m training label --annotator anna --port 8800
  python -m training label --answers answers.csv
"""
)
@click.option(
    "--crops",
    type=click.Path(path_type=Path),
    default=lambda: data_dir() / "eyes-dataset.zip",
    show_default="$EYESTATE_DATA/eyes-dataset.zip",
    help="The crops that the queue names: zip or folder.",
)
@click.option(
    "--queue",
    "queue_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("runs/pseudo_label/queue.csv"),
    show_default=True,
    help="What to ask about, in this order: the queue.csv of `pseudo-label` or `self-train`.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/label"),
    show_default=True,
    help="Folder of answers.csv and of the page's store; earlier answers in it are kept.",
)
@click.option(
    "--answers",
    "answers_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take the answers from this CSV (file,label and perhaps annotators,votes_open) instead of starting the page.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=BUDGET,
    show_default=True,
    help="Most crops that people may be asked about; a longer queue is refused.",
)
@click.option("--annotator", metavar="NAME", help="Who answers.  [default: the page asks]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Browsers reach the page by this address or as localhost only. There is no password: "
    "whoever reaches the page may answer.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port to listen on; 0 finds one."
)
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
def label(
    *,
    crops: Path,
    queue_file: Path,
    output: Path,
    answers_file: Path | None,
    budget: int,
    annotator: str | None,
    host: str,
    port: int,
    no_browser: bool,
) -> None:
    """Let people say of each crop in a queue whether the eye is open.

    Starts a page that shows the crops one by one and saves every answer at once. Ctrl+C stops it; started again it
    goes on where it was. The majority's answers are in answers.csv of the output folder at any time; the exit code
    is 0 if every crop of the queue has an answer.
    """
    queue, asked = read_queue(queue_file, crops, budget)
    if answers_file is not None:
        answer_by_file(queue, answers_file, output)
        return
    name = None if annotator is None else annotator_name(annotator)
    task = open_task(queue, asked, output, queue_file)
    listener = listen(host, port)
    shown_host = f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{listener.getsockname()[1]}/" + (f"?annotator={quote(name)}" if name else "")
    click.echo(f"{len(queue)} crops to label at {url} (Ctrl+C stops)")
    if not no_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        server(task, (*LOCAL, shown_host)).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn hands it on when it has shut down
        pass
    finally:
        left = len({item.file for item in queue} - {vote.file for vote in task.store.votes()})
        task.store.close()
    click.echo(f"{len(queue) - left} of {len(queue)} crops have an answer in {task.answers}")
    if left:
        click.echo("go on labelling with the same command")
        raise click.exceptions.Exit(1)  # a pipeline waits until every crop has an answer
    click.echo(f"go on with:\n{task.go_on}")


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


def answer_by_file(queue: Sequence[Label], answers_file: Path, output: Path) -> None:
    """Write the answers that a file gives to the queue; a crop without one is written as nobody's.

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
    click.echo(
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


def server(task: Task, hosts: Sequence[str]) -> uvicorn.Server:
    """The server of the page; it waits two seconds at most for requests under way when it is stopped."""
    config = uvicorn.Config(
        app(task, hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
