"""``python -m training label``: ask people about the crops in a queue, on a page or by a file of answers."""

from __future__ import annotations

import socket
import threading
import webbrowser
from pathlib import Path
from urllib.parse import quote

import click

from training.data.datasets import data_dir
from training.data.labels import BUDGET
from training.label.serve import ANY_ADDRESS, answer_by_file, listen, open_task, read_queue, server
from training.label.store import annotator_name


@click.command(
    "label",
    epilog="""\b
Examples:
  python -m training label
  python -m training label --annotator anna --port 8800
  python -m training label --host 0.0.0.0 --allow-host labels.example.org
  python -m training label --answers answers.csv
""",
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
    help="The crops to ask about, in this order: the queue.csv of `pseudo-label` or `committee`.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/label"),
    show_default=True,
    help="Folder for answers.csv and the page's store; earlier answers in it are kept.",
)
@click.option(
    "--answers",
    "answers_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read the answers from this CSV (file,label and perhaps annotators,votes_open) instead of starting the page.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=BUDGET,
    show_default=True,
    help="How many crops people may be asked about; a longer queue is an error.",
)
@click.option("--annotator", metavar="NAME", help="Who answers.  [default: the page asks]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on, 0.0.0.0 for all. Browsers reach the page by an address, as localhost or by the "
    "machine's name. There is no password: whoever reaches the page may answer.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="Another name by which browsers may reach the page; may be given several times.",
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
    allowed_hosts: tuple[str, ...],
    port: int,
    no_browser: bool,
) -> None:
    """Ask people whether the eye in each crop of a queue is open.

    Starts a page that shows the crops one by one and saves every answer at once. Ctrl+C stops it; started again, it
    continues where it stopped. answers.csv in the output folder always holds the majority's answers; the exit code is 0
    if every crop of the queue has an answer.
    """
    queue, asked = read_queue(queue_file, crops, budget)
    if answers_file is not None:
        click.echo(answer_by_file(queue, answers_file, output))
        return
    name = None if annotator is None else annotator_name(annotator)
    task = open_task(queue, asked, output, queue_file)
    listener = listen(host, port)
    shown_host = "localhost" if host in ANY_ADDRESS else f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{listener.getsockname()[1]}/" + (f"?annotator={quote(name)}" if name else "")
    click.echo(f"{len(queue)} crops to label at {url} (Ctrl+C stops)")
    if host in ANY_ADDRESS:
        click.echo(f"from other machines at http://{socket.gethostname()}:{listener.getsockname()[1]}/")
    if not no_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        server(task, (host, *allowed_hosts)).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn hands it on when it has shut down
        pass
    finally:
        left = len({item.file for item in queue} - {vote.file for vote in task.store.votes()})
        task.store.close()
    click.echo(f"{len(queue) - left} of {len(queue)} crops have an answer in {task.answers}")
    if left:
        click.echo("continue labelling with the same command")
        raise click.exceptions.Exit(1)  # a pipeline waits until every crop has an answer
    click.echo(f"continue with:\n{task.go_on}")
