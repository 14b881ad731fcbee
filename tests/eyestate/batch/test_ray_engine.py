"""Batch jobs on a Ray of this machine's own, which takes a few seconds to start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eyestate.batch.job import run
from eyestate.batch.outputs import Manifest
from eyestate.errors import JobError, ServiceError
from tests.bundles import write_bundle
from tests.eyestate.batch.crops import png, write_tar
from tests.eyestate.batch.test_job import CROPS, Told, assert_scored, job
from tests.faulty_service import FaultyService, faulty_service

ray = pytest.importorskip("ray", reason="the environment is without Ray")

# Ray 2.60 warns of settings that it makes itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

IMAGES = CROPS | {"007.png": b"no image"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray that was started before."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "in.tar", IMAGES)


def manifest(output: Path) -> Manifest:
    return Manifest.model_validate_json((output / "_manifest.json").read_bytes())


def test_ray_of_its_own(service: FaultyService, tmp_path: Path, source: Path) -> None:
    told = Told()
    found = run(job(service, tmp_path / "ray", source, engine="ray"), told)
    assert not ray.is_initialized()
    assert_scored(tmp_path / "ray", IMAGES)
    assert (found.complete, found.totals.failed, told.done) == (True, 1, 250)
    assert run(job(service, tmp_path / "local", source), Told()).parts == found.parts  # to the last byte
    assert pq.read_schema(tmp_path / "ray" / "part-000000.parquet").metadata[b"model_name"] == b"brightness"


@pytest.mark.usefixtures("cluster")
class TestCluster:
    def test_what_one_engine_began_the_other_ends(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        output = tmp_path / "out"
        service.order(*[None] * 13, then={"status": 401})
        with pytest.raises(ServiceError, match="401"):
            run(job(service, output, source), Told())
        kept = manifest(output).parts
        assert len(kept) == 3
        service.order()
        found = run(job(service, output, source, engine="ray"), Told())
        assert ray.is_initialized()
        assert found.parts[:3] == kept
        assert service.seen()["posts"] == 250 / 10 - 3 * 4
        assert_scored(output, IMAGES)
        service.order(then={"status": 500})
        assert run(job(service, output, source, engine="ray"), Told()) == found

    def test_error_of_a_task(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        service.order(*[None] * 15, then={"status": 401})
        with pytest.raises(JobError, match=r"answered 401 \(ordered\): as ordered; what is scored is kept"):
            run(job(service, tmp_path / "out", source, engine="ray"), Told())
        service.order()
        run(job(service, tmp_path / "out", source, engine="ray"), Told())
        assert_scored(tmp_path / "out", IMAGES)

    def test_other_model(self, service: FaultyService, tmp_path: Path, source: Path) -> None:
        service.order(*[None] * 8, then={"status": 401})
        with pytest.raises(ServiceError, match="401"):
            run(job(service, tmp_path / "out", source), Told())
        with (
            faulty_service(write_bundle(tmp_path, "brighter"), tmp_path / "service.log") as other,
            pytest.raises(JobError, match=r"scores with brighter .* began with brightness"),
        ):
            run(job(other, tmp_path / "out", source, engine="ray"), Told())


def test_without_the_extra(service: FaultyService, tmp_path: Path) -> None:
    write_tar(tmp_path / "in.tar", {"0.png": png(0)})
    code = (
        "import sys; sys.modules['ray'] = None\nfrom eyestate.cli import main\n"
        f"main(['batch', 'in.tar', '--endpoint', {service.url!r}, '--output', 'out', '--engine', 'ray'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.endswith("Error: ray is not installed; install it with: pip install 'eyestate[ray]'\n")
