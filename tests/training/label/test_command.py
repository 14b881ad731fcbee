from __future__ import annotations

import os
import signal
import socket
import uuid
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner, Result

from eyestate.cli import Commands
from tests.training.label.desks import commanded, drawn, made_task, write_task
from tools.harness.servers import free_port
from training.data.datasets import CLOSED, OPEN
from training.data.labels import Answer, read_answers, write_answers, write_labels
from training.label.command import label
from training.label.store import Store

CROPS = drawn(4)
main = Commands("main", commands=[label])


def run(folder: Path, *options: str | Path) -> Result:
    given = ["--crops", folder / "crops", "--queue", folder / "queue.csv", "--output", folder / "label", *options]
    return CliRunner().invoke(main, ["label", *map(str, given)])


def refused(result: Result) -> str:
    assert result.exit_code == 1
    assert result.stderr.count("Error: ") == 1
    return result.stderr.partition("Error: ")[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_task(tmp_path, CROPS)
    return tmp_path


def test_help() -> None:
    result = CliRunner().invoke(main, ["label", "--help"])
    assert result.exit_code == 0
    for option in label.params:
        assert isinstance(option, click.Option)
        assert option.help


def test_answers_from_a_file(folder: Path) -> None:
    given = [Answer("0000.png", OPEN, 3, 2), Answer("0001.png", CLOSED, 1, 0), Answer("0002.png", None, 2, 1)]
    write_answers(folder / "given.csv", [*given, Answer("elsewhere.png", OPEN, 1, 1)])
    result = run(folder, "--answers", folder / "given.csv")
    assert result.exit_code == 0, result.output
    assert "2 of 4 crops decided, 1 could not be told, 1 missing" in result.stdout
    expected = [*given, Answer("0003.png", None, 0, 0)]
    assert read_answers(folder / "label" / "answers.csv") == {answer.file: answer for answer in expected}


def test_answers_without_any_of_the_queue(folder: Path) -> None:
    write_answers(folder / "given.csv", [Answer("elsewhere.png", OPEN, 1, 1)])
    assert "answers none of the 4 crops" in refused(run(folder, "--answers", folder / "given.csv"))
    assert not (folder / "label").exists()


def test_answers_do_not_replace_those_of_the_page(folder: Path) -> None:
    Store(folder / "label" / "answers.sqlite3", CROPS).close()
    write_answers(folder / "given.csv", [Answer("0000.png", OPEN, 1, 1)])
    assert "choose another --output" in refused(run(folder, "--answers", folder / "given.csv"))


def test_the_page_does_not_replace_answers_from_a_file(folder: Path) -> None:
    write_answers(folder / "label" / "answers.csv", [Answer("0000.png", OPEN, 1, 1)])
    assert "did not come from the page" in refused(run(folder))


def test_a_queue_over_the_budget(folder: Path) -> None:
    assert "has 4 crops; people are asked about 3 at most" in refused(run(folder, "--budget", "3"))


def test_a_queue_of_crops_that_are_not_there(folder: Path) -> None:
    (folder / "crops" / "0002.png").unlink()
    assert "1 crops of" in (message := refused(run(folder)))
    assert "such as 0002.png" in message


def test_an_empty_queue(folder: Path) -> None:
    write_labels(folder / "queue.csv", [])
    assert "nothing to label" in refused(run(folder))


def test_a_missing_queue(folder: Path) -> None:
    (folder / "queue.csv").unlink()
    assert "cannot read" in refused(run(folder))


def test_a_name_that_is_refused(folder: Path) -> None:
    assert "annotator's name" in refused(run(folder, "--annotator", "=x"))


def test_a_port_in_use(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1, port {port}" in refused(run(folder, "--port", str(port)))


def test_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    task = made_task(tmp_path, CROPS)
    task.store.close()
    assert f"--answers {tmp_path / 'label' / 'answers.csv'}" in task.go_on
    monkeypatch.setenv("DVC_STAGE", "label")
    task = made_task(tmp_path, CROPS)
    task.store.close()
    assert task.go_on == "dvc repro"


@pytest.mark.parametrize("answered", [3, 4])
def test_the_command_serves_and_stops(folder: Path, answered: int) -> None:
    port = free_port()
    with commanded(folder, port) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        store = client.get("/api/state").json()["store"]
        for crop in CROPS[:answered]:
            said = {"store": store, "id": uuid.uuid4().hex, "annotator": "anna", "file": crop.name, "label": "open"}
            client.post("/api/answer", json=said).raise_for_status()
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
        assert process.exitcode == (0 if answered == len(CROPS) else 1)
    printed = (folder / "log.txt").read_text()
    assert f"4 crops to label at http://127.0.0.1:{port}/" in printed
    assert f"{answered} of 4 crops have an answer" in printed
    assert "Traceback" not in printed
