"""A batch job against the real service, killed again and again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.bundles import write_bundle
from tests.eyestate.batch.crops import png, write_tar
from tests.service.conftest import started_service, wait_until_ready

ROWS = 6_000
PART_ROWS = 100
KILLS = 6


@pytest.fixture(scope="module")
def brightness_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service with a model whose scores are mean brightness."""
    folder = tmp_path_factory.mktemp("brightness")
    log = folder / "service.log"
    with started_service(folder / "home", log, EYESTATE_MODEL=str(write_bundle(folder))) as (process, url):
        wait_until_ready(process, url, log)
        yield url


def brightness(row: int) -> int:
    return row * 7 % 256


def test_killed_at_random_moments_no_row_is_lost_or_doubled(brightness_service: str, tmp_path: Path) -> None:
    images = {f"{row:05d}.png": b"damaged" if row % 1_000 == 17 else png(brightness(row)) for row in range(ROWS)}
    names = list(images)
    for first in range(0, ROWS, ROWS // 3):
        write_tar(tmp_path / f"eyes-{first}.tar", {name: images[name] for name in names[first : first + ROWS // 3]})
    output = tmp_path / "out"
    eyestate = Path(sys.executable).with_name("eyestate")
    size = ["--rows-per-part", str(PART_ROWS), "--rows-per-request", "20"]
    command: list[str | Path] = [
        eyestate,
        "batch",
        tmp_path / "eyes-*.tar",
        "--endpoint",
        brightness_service,
        "--output",
        output,
        *size,
    ]
    chance = random.Random(4)
    for _ in range(KILLS):
        written = len(list(output.glob("part-*")))
        until, pause = written + chance.randrange(4), chance.uniform(0, 0.02)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            deadline = time.monotonic() + 60
            while len(list(output.glob("part-*"))) < until and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(pause if until > written else chance.uniform(0, 2))
            process.kill()
            log, _ = process.communicate(timeout=60)
        assert process.returncode == -9, log
        if (output / "_manifest.json").exists():
            json.loads((output / "_manifest.json").read_text())

    killed_at = len(list(output.glob("part-*")))
    assert 0 < killed_at < ROWS // PART_ROWS
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 3, result.stderr
    table = pq.read_table(output)
    assert table["row"].to_pylist() == list(range(ROWS))
    assert table["key"].to_pylist() == list(images)
    expected = [np.nan if images[key] == b"damaged" else brightness(row) / 255 for row, key in enumerate(images)]
    np.testing.assert_allclose(np.array(table["score"].to_pylist(), float), expected, atol=1e-3)
    assert sorted(path.name for path in output.iterdir() if path.name[0] != "p") == [".lock-0", "_manifest.json"]
    manifest = json.loads((output / "_manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["totals"]["rows"] == ROWS
    assert manifest["totals"]["failed"] == 6
