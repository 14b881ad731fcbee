"""Locust users of the service: ``locust -f loadtests/locustfile.py --scenario spike --host http://…``.

``python -m loadtests.scenarios spike`` does the same with a service that it starts itself. The exit code is 1 if a
limit of the scenario is exceeded.
"""

from __future__ import annotations

import itertools
import os
import random
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser, LoadTestShape, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner, WorkerRunner
from locust.stats import StatsEntry

from eyestate.errors import EyestateError
from loadtests.scenarios.claims import REFUSED, Row, claims
from loadtests.scenarios.options import OPTIONS
from loadtests.scenarios.plan import (
    BATCHES_PER_SECOND,
    SCENARIOS,
    SINGLES_PER_SECOND,
    Kind,
    scaled,
    users_at,
)
from loadtests.scenarios.requests import Body, api_key, request_bodies, response_error, retry_after
from tools.harness.claims import Claim, format_claims

_MAX_SPAWN_RATE = 100.0  # users per second; above it Locust warns


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Add this project's options to Locust's."""
    parser.add_argument("--scenario", choices=list(SCENARIOS), default="single", help="What users do.")
    for option in OPTIONS:
        parser.add_argument(
            option.flag, metavar=option.metavar, type=option.read, default=option.default, help=option.help
        )


class Caller(FastHttpUser):
    """Sends prepared requests, checks each response, and backs off when rejected."""

    abstract = True
    insecure = False  # TLS certificates are verified
    kind: ClassVar[Kind]
    _bodies: Iterator[Body]
    _authorization: dict[str, str]

    def on_start(self) -> None:
        options = chosen_options(self.environment)
        prepared = request_bodies(self.kind, options.crops, options.batch)
        self._bodies = itertools.cycle(random.sample(prepared, len(prepared)))
        key = api_key(options.api_key_file, os.environ)
        self._authorization = {"Authorization": f"Bearer {key}"} if key else {}

    @task
    def score(self) -> None:
        """Send one request. A rejection is not a failure: it is counted separately and followed by a pause."""
        body = next(self._bodies)
        headers = {**body.headers, **self._authorization}
        data: Any = body.data  # Locust's types allow only str
        with self.client.post(body.path, data=data, headers=headers, name=self.kind, catch_response=True) as response:
            wait = retry_after(response.status_code, (response.headers or {}).get("Retry-After"))
            if wait is not None:
                response.request_meta["name"] = self.kind + REFUSED
                response.success()
            elif response.status_code and (
                error := response_error(body, response.status_code, response.content or b"")
            ):
                response.failure(error)  # without a status Locust reports the failure itself
        if wait is not None:
            gevent.sleep(wait)


class SingleCrop(Caller):
    """A camera: one JPEG per request."""

    kind = "single"
    weight = 8
    wait_time = constant_throughput(SINGLES_PER_SECOND)


class MultipartBatch(Caller):
    """A client with encoded files."""

    kind = "multipart"
    weight = 1
    wait_time = constant_throughput(BATCHES_PER_SECOND)


class PackedBatch(Caller):
    """A client with pixels: npy in, npy out."""

    kind = "packed"
    weight = 1
    wait_time = constant_throughput(BATCHES_PER_SECOND)


CALLERS: dict[Kind, type[Caller]] = {caller.kind: caller for caller in (SingleCrop, MultipartBatch, PackedBatch)}


class Shape(LoadTestShape):
    """The stages of the selected scenario."""

    def tick(self) -> tuple[int, float, list[type[Any]]] | None:
        assert self.runner is not None
        options = chosen_options(self.runner.environment)
        scenario = SCENARIOS[options.scenario]
        stages = scaled(scenario.stages, factor=options.factor, seconds=options.seconds)
        users = users_at(stages, self.get_run_time())
        if users is None:
            return None
        return users, min(float(users), _MAX_SPAWN_RATE), [CALLERS[kind] for kind in scenario.kinds]


@events.init.add_listener
def validate_options(environment: Environment, **_: Any) -> None:
    """Stop before the run if crops or key cannot be read."""
    if isinstance(environment.runner, LocalRunner):
        options = chosen_options(environment)
        try:
            request_bodies(SCENARIOS[options.scenario].kinds[0], options.crops, options.batch)
            api_key(options.api_key_file, os.environ)
        except EyestateError as error:
            raise SystemExit(f"locust: {error.message}") from None


@events.test_stop.add_listener
def print_claims(environment: Environment, **_: Any) -> None:
    """Print the claims after a run started from Locust's web page."""
    if not isinstance(environment.runner, WorkerRunner) and not chosen_options(environment).headless:
        report(environment)


@events.quitting.add_listener
def set_exit_code(environment: Environment, **_: Any) -> None:
    """Set the exit code; without the web page also print the claims, since all workers have reported only now."""
    if not isinstance(environment.runner, WorkerRunner):
        if chosen_options(environment).headless:
            report(environment)
        environment.process_exit_code = 0 if all(claim.held for claim in evaluated(environment)) else 1


def report(environment: Environment) -> None:
    """Print which claims hold."""
    print(f"\nScenario {chosen_options(environment).scenario}\n{format_claims(evaluated(environment))}\n", flush=True)


def chosen_options(environment: Environment) -> Namespace:
    """The command-line options; a worker has the master's."""
    options = environment.parsed_options
    assert isinstance(options, Namespace)
    return options


def evaluated(environment: Environment) -> list[Claim]:
    """The claims about the run, from Locust's statistics of all workers."""
    assert environment.runner is not None
    options = chosen_options(environment)
    scenario = SCENARIOS[options.scenario]
    overrides = {"p95_ms": options.p95_ms, "errors": options.max_errors, "refused": options.max_refused}
    limits = replace(scenario.limits, **{name: value for name, value in overrides.items() if value is not None})
    rows = [row(environment.stats.entries, kind) for kind in scenario.kinds]
    return claims(rows, limits, exceptions=len(environment.runner.exceptions))


def row(entries: Mapping[tuple[str, str], StatsEntry], kind: Kind) -> Row:
    """Counts and p95 of one kind of request."""
    answered, refused = (entries.get((name, "POST")) for name in (kind, kind + REFUSED))
    refusals = refused.num_requests if refused else 0
    if answered is None:
        return Row(kind, refusals, 0, refusals, None)
    p95 = answered.get_response_time_percentile(0.95)
    return Row(kind, answered.num_requests + refusals, answered.num_failures, refusals, p95)
