"""Run every query of dashboard and rules on a real Prometheus that scrapes the service under load."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import yaml

from eyestate.bundle import Bundle, CascadeBundle
from tools.harness.load import LoadGenerator, run
from tools.harness.service import running_service
from tools.monitoring import traffic
from tools.monitoring.artefacts import SCRAPE
from tools.monitoring.local import prometheus
from tools.monitoring.queries import (
    CheckedQuery,
    QueryResult,
    dashboard_queries,
    rule_queries,
    run_query,
    unhealthy_rules,
)

_INTERVAL: Final = "1s"
_WORKERS: Final = 2
_QUEUE: Final = 100  # crops; small enough that some batches are rejected
_CONNECTIONS: Final = 8
_PER_CONNECTION: Final = 20  # requests, so that both workers get some
_TIMEOUT_SECONDS: Final = 180  # until every query has a value


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The results of all queries.

    Attributes:
        dashboard: results of the dashboard's queries.
        rules: results of the rules' expressions.
        unhealthy: rules that Prometheus could not evaluate, and why.
        samples: number of samples in a scrape.
        limit: of that number, as shipped.
    """

    dashboard: list[QueryResult]
    rules: list[QueryResult]
    unhealthy: dict[str, str]
    samples: int
    limit: int

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each."""
        results = [*self.dashboard, *self.rules]
        return [
            *(f"{each.query.source}: {each.problem}: {each.query.expr}" for each in results if each.problem),
            *(f"{name}: {why}" for name, why in self.unhealthy.items()),
            *([f"{self.samples} samples per scrape, the limit is {self.limit}"] if self.samples > self.limit else []),
        ]


def check_queries(bundle: Bundle | CascadeBundle, folder: Path) -> CheckReport:
    """Start service, load and Prometheus, and repeat all queries until each has a value or the time is up.

    Args:
        bundle: the model to serve.
        folder: for Prometheus' data and log.

    Raises:
        ServerError, MissingError: the service or Prometheus could not be started.
    """
    settings = {"EYESTATE_QUEUE": str(_QUEUE), "EYESTATE_LOG_LEVEL": "error"}
    with (
        running_service(bundle, "cpu", _WORKERS, "queries", **settings) as service,
        prometheus(f"127.0.0.1:{service.port}", folder, _INTERVAL) as server,
        under_load(service.port, bundle.manifest.name),
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while (report := _run_all(client)).problems and time.monotonic() < deadline:
            time.sleep(1)
        return report


@contextmanager
def under_load(port: int, model: str, rate: float | None = None) -> Iterator[None]:
    """Send requests of every kind while the block runs.

    Args:
        port: of the service on the loopback interface.
        model: its name.
        rate: requests per second; as many as possible if None.
    """
    stopping = threading.Event()

    async def send() -> None:
        stop = asyncio.Event()
        generator = LoadGenerator(port, traffic.requests(model), _PER_CONNECTION)
        loop = generator.closed_loop(_CONNECTIONS, stop) if rate is None else generator.open_loop(rate, stop)
        sending = asyncio.create_task(loop)
        await asyncio.to_thread(stopping.wait)
        stop.set()
        await sending
        generator.close()

    thread = threading.Thread(target=run, args=(send(),))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _run_all(prometheus: httpx.Client) -> CheckReport:
    scrape = yaml.safe_load(SCRAPE.read_text())["scrape_configs"][0]
    samples = run_query(prometheus, CheckedQuery("scrape", "max(scrape_samples_scraped)")).series
    return CheckReport(
        dashboard=[run_query(prometheus, query) for query in dashboard_queries()],
        rules=[run_query(prometheus, query) for query in rule_queries()],
        unhealthy=unhealthy_rules(prometheus),
        samples=int(samples[0][1]) if samples else 0,
        limit=scrape["sample_limit"],
    )
