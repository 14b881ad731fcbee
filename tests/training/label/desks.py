"""Labelling tasks on drawn eyes, and the real server on them: in a thread, or in a process that can be killed."""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from training.data.datasets import Crop
from training.data.labels import Label, write_labels
from training.data.synthetic import random_eye, render
from training.label.app import Task
from training.label.command import label
from training.label.serve import listen, open_task, server

START_SECONDS = 120


def drawn(count: int, side: int = 24) -> list[Crop]:
    """So many different crops, PNG, side × side pixels; beyond 12 they are one drawing in many shades."""
    rng = np.random.default_rng(0)
    eyes = [render(random_eye(rng, float(rng.uniform())), side) for _ in range(min(count, 12))]
    crops = []
    for number in range(count):
        pixels = eyes[number % len(eyes)].copy()
        pixels[0, :2] = divmod(number, 256)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        crops.append(Crop(f"{number:04d}.png", file.getvalue()))
    return crops


def questions(crops: Sequence[Crop]) -> list[Label]:
    return [Label(crop.name, None, 0.5 + number / 10_000, "pseudo") for number, crop in enumerate(crops)]


def made_task(folder: Path, crops: Sequence[Crop]) -> Task:
    return open_task(questions(crops), crops, folder / "label", folder / "queue.csv")


def write_task(folder: Path, crops: Sequence[Crop]) -> tuple[Path, Path]:
    """The folder of crops and the queue file as the command reads them."""
    images, queue = folder / "crops", folder / "queue.csv"
    for crop in crops:
        path = images / crop.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(crop.data)
    write_labels(queue, questions(crops))
    return images, queue


@contextmanager
def served(task: Task, hosts: Sequence[str] = ()) -> Iterator[str]:
    """The URL of the page, served by a thread; ``hosts`` are names that browsers may use."""
    listener = listen("127.0.0.1", 0)
    running = server(task, hosts)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(30)
        listener.close()
        task.store.close()


@contextmanager
def commanded(folder: Path, port: int) -> Iterator[ForkServerProcess]:
    """The command in a process of its own, ready, on what ``write_task`` left in the folder; killed in the end.

    What it prints goes to ``log.txt`` there.
    """
    options = ["--crops", folder / "crops", "--queue", folder / "queue.csv", "--output", folder / "label"]
    arguments = [*map(str, options), "--port", str(port), "--no-browser"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.label.command"])
    process = context.Process(target=run_command, args=(arguments, folder / "log.txt"))
    process.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/state", timeout=60).raise_for_status()
                break
            except httpx.TransportError:
                assert process.is_alive()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.join()


def run_command(arguments: list[str], log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    label.main(arguments)
