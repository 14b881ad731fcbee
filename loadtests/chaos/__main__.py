"""``python -m loadtests.chaos RUN``: try to break the service, and exit with 1 if that succeeds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, get_args

import click

from eyestate.settings import Device
from loadtests.chaos.hostile import Found, hostile
from loadtests.chaos.kill import kill
from loadtests.chaos.overload import overload
from loadtests.chaos.report import report_run, save_run
from loadtests.chaos.soak import soak
from tools.harness import crops
from tools.harness.drain import drain
from tools.harness.load import run
from tools.harness.report import REPORTS, conditions
from tools.harness.servers import Server
from tools.harness.service import running_service


def seconds_option(default: float) -> Callable[[Any], Any]:
    """The option for the duration of a run."""
    return click.option("--seconds", type=click.FloatRange(1), default=default, show_default=True, help="Of load.")


def service_options(command: Any) -> Any:
    """The options for the service under attack."""
    for option in (
        click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True),
        click.option("--workers", type=click.IntRange(1), default=2, show_default=True),
        click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True),
        crops.model_option(),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Attack a service started for it. Every run writes chaos-RUN.json and exits with 1 unless all claims hold."""


@main.command("overload")
@service_options
@seconds_option(20.0)
@click.option("--factor", type=click.FloatRange(1.1), default=2.0, show_default=True, help="Of the capacity.")
@click.option("--timeout", type=click.FloatRange(1), default=5.0, show_default=True, help="EYESTATE_TIMEOUT, seconds.")
def overload_command(*, seconds: float, factor: float, timeout: float, **service: Any) -> None:
    """Send more than the service can handle: it must reject the excess promptly and keep serving at capacity."""
    attack(
        "overload",
        lambda server, _: overload(server, factor=factor, seconds=seconds, timeout=timeout),
        {"seconds": seconds, "factor": factor, "timeout": timeout},
        service,
        EYESTATE_TIMEOUT=f"{timeout:g}",
    )


@main.command("kill")
@service_options
@seconds_option(30.0)
@click.option("--every", type=click.FloatRange(0.5), default=3.0, show_default=True, help="Seconds between kills.")
def kill_command(*, seconds: float, every: float, **service: Any) -> None:
    """Kill a random worker repeatedly: only its in-flight requests may be lost, and it must be replaced."""
    attack(
        "kill",
        lambda server, _: kill(server, workers=service["workers"], seconds=seconds, every=every),
        {"seconds": seconds, "every": every},
        service,
    )


@main.command("drain")
@service_options
@seconds_option(5.0)
def drain_command(*, seconds: float, **service: Any) -> None:
    """Stop the service under load: no accepted request may be lost."""
    attack("drain", lambda server, _: drain(server, seconds=seconds), {"seconds": seconds}, service)


@main.command("soak")
@service_options
@seconds_option(60.0)
@click.option("--rate", type=click.FloatRange(1), default=60.0, show_default=True, help="Requests per second.")
def soak_command(*, seconds: float, rate: float, **service: Any) -> None:
    """Keep the service busy with valid and invalid requests: its memory must not grow."""
    model = crops.bundle(service["model"]).manifest.name
    attack(
        "soak",
        lambda server, _: soak(server, model=model, rate=rate, seconds=seconds),
        {"seconds": seconds, "rate": rate},
        service,
    )


@main.command("hostile")
@service_options
@seconds_option(1_800.0)
@click.option("--requests", type=click.IntRange(30), default=100_000, show_default=True, help="Hostile ones.")
@click.option("--rate", type=click.FloatRange(1), default=20.0, show_default=True, help="Good requests per second.")
@click.option("--timeout", type=click.FloatRange(1), default=60.0, show_default=True, help="EYESTATE_TIMEOUT, seconds.")
def hostile_command(*, seconds: float, requests: int, rate: float, timeout: float, **service: Any) -> None:
    """Send hostile requests to all routes beside good ones: each gets one answer, and the good ones hardly notice."""
    model = crops.bundle(service["model"]).manifest.name
    attack(
        "hostile",
        lambda server, checkpoint: hostile(
            server,
            model=model,
            requests=requests,
            rate=rate,
            seconds=seconds,
            timeout=timeout,
            checkpoint=checkpoint,
        ),
        {"seconds": seconds, "requests": requests, "rate": rate, "timeout": timeout},
        service,
        EYESTATE_TIMEOUT=f"{timeout:g}",
    )


def attack(
    name: str,
    attacker: Callable[[Server, Callable[[Found], object]], Coroutine[Any, Any, Found]],
    chosen: dict[str, Any],
    service: dict[str, Any],
    **environment: str,
) -> None:
    """Start the service, attack it, and report.

    Args:
        name: of the run.
        attacker: the attack, which is also given what keeps what has been found so far, should it not come to its end.
        chosen: settings of the run, for the report.
        service: values of ``service_options``.
        environment: additional settings of the service.
    """
    bundle = crops.bundle(service["model"])
    settings = {"model": bundle.manifest.name, "device": service["device"], "workers": service["workers"]}
    about = conditions(bundle, **settings, **chosen)
    with running_service(bundle, service["device"], service["workers"], name, **environment) as server:
        figures, claims = run(attacker(server, lambda found: save_run(service["output"], name, about, *found)))
    report_run(service["output"], name, about, figures, claims)


if __name__ == "__main__":
    main()
