"""Callers of the service for Locust: ``locust -f loadtests/locustfile.py --scenario spike --host http://…``.

``python -m loadtests.scenarios spike`` does the same with a service that it starts itself. The exit code is 1 where
something did not hold that the scenario demands.
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

_MAX_SPAWN_RATE = 100.0  # users a second, beyond which Locust warns


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Add our options to Locust's."""
    parser.add_argument("--scenario", choices=list(SCENARIOS), default="single", help="What callers do.")
    for option in OPTIONS:
        parser.add_argument(
            option.flag, metavar=option.metavar, type=option.read, default=option.default, help=option.help
        )


class Caller(FastHttpUser):
    """Sends prepared requests, looks at each answer, and comes back when a refusal says so."""

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
        """One request. A refusal is none of the failures: it is counted apart, and heeded."""
        body = next(self._bodies)
        headers = {**body.headers, **self._authorization}
        data: Any = body.data  # Locust's types know of str alone
        with self.client.post(body.path, data=data, headers=headers, name=self.kind, catch_response=True) as response:
            wait = retry_after(response.status_code, (response.headers or {}).get("Retry-After"))
            if wait is not None:
                response.request_meta["name"] = self.kind + REFUSED
                response.success()
            elif response.status_code and (
                wrong := response_error(body, response.status_code, response.content or b"")
            ):
                response.failure(wrong)  # without a status Locust itself says what went wrong
        if wait is not None:
            gevent.sleep(wait)


class SingleCrop(Caller):
    """A camera: one JPEG a request."""

    kind = "single"
    weight = 8
    wait_time = constant_throughput(SINGLES_PER_SECOND)


class MultipartBatch(Caller):
    """A worker with encoded files."""

    kind = "multipart"
    weight = 1
    wait_time = constant_throughput(BATCHES_PER_SECOND)


class PackedBatch(Caller):
    """A worker with pixels: npy out, npy back."""

    kind = "packed"
    weight = 1
    wait_time = constant_throughput(BATCHES_PER_SECOND)


CALLERS: dict[Kind, type[Caller]] = {caller.kind: caller for caller in (SingleCrop, MultipartBatch, PackedBatch)}


class Shape(LoadTestShape):
    """The stages of the scenario that was chosen."""

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
def check(environment: Environment, **_: Any) -> None:
    """Stop before the run where crops or key cannot be read."""
    if isinstance(environment.runner, LocalRunner):
        options = chosen_options(environment)
        try:
            request_bodies(SCENARIOS[options.scenario].kinds[0], options.crops, options.batch)
            api_key(options.api_key_file, os.environ)
        except EyestateError as error:
            raise SystemExit(f"locust: {error.message}") from None


@events.test_stop.add_listener
def tell(environment: Environment, **_: Any) -> None:
    """Print what held after a run that was started on Locust's page."""
    if not isinstance(environment.runner, WorkerRunner) and not chosen_options(environment).headless:
        report(environment)


@events.quitting.add_listener
def decide(environment: Environment, **_: Any) -> None:
    """Set the exit code; without a page also print what held, for only now have all workers told their last figures."""
    if not isinstance(environment.runner, WorkerRunner):
        if chosen_options(environment).headless:
            report(environment)
        environment.process_exit_code = 0 if all(claim.held for claim in judged(environment)) else 1


def report(environment: Environment) -> None:
    """Print what held and what did not."""
    print(f"\nScenario {chosen_options(environment).scenario}\n{format_claims(judged(environment))}\n", flush=True)


def chosen_options(environment: Environment) -> Namespace:
    """The options of the command line; a worker has those of the master's."""
    options = environment.parsed_options
    assert isinstance(options, Namespace)
    return options


def judged(environment: Environment) -> list[Claim]:
    """What the run has to show, from Locust's statistics of all workers."""
    assert environment.runner is not None
    options = chosen_options(environment)
    scenario = SCENARIOS[options.scenario]
    given = {"p95_ms": options.p95_ms, "errors": options.max_errors, "refused": options.max_refused}
    limits = replace(scenario.limits, **{name: value for name, value in given.items() if value is not None})
    rows = [row(environment.stats.entries, kind) for kind in scenario.kinds]
    return claims(rows, limits, exceptions=len(environment.runner.exceptions))


def row(entries: Mapping[tuple[str, str], StatsEntry], kind: Kind) -> Row:
    """What became of one kind of request."""
    answered, refused = (entries.get((name, "POST")) for name in (kind, kind + REFUSED))
    refusals = refused.num_requests if refused else 0
    if answered is None:
        return Row(kind, refusals, 0, refusals, None)
    p95 = answered.get_response_time_percentile(0.95)
    return Row(kind, answered.num_requests + refusals, answered.num_failures, refusals, p95)
