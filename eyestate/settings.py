"""The settings of the service, from environment variables."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    FilePath,
    IPvAnyNetwork,
    ValidationError,
)

from eyestate.errors import SettingError

PREFIX: Final = "EYESTATE_"

Device = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]
LogLevel = Literal["debug", "info", "warning", "error"]

_AnyCase: Final = BeforeValidator(str.lower)

# Variables that are read elsewhere: by the model runtime, the client, the training, and the tests.
_OTHERS: Final = ("MODEL", "MODELS", "API_KEY", "DATA", "KSERVE_PYTHON")
# Variables that Kubernetes sets in every pod where a Service has the name eyestate.
_SERVICE_LINK: Final = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_|$)")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_DEFAULT_PORT: Final = re.compile("http:.+:80|https:.+:443")


def _origins(text: str) -> tuple[str, ...]:
    """Origins in the form in which browsers send them, separated by commas or spaces."""
    origins = tuple(text.replace(",", " ").split())
    for origin in origins:
        if origin != "*" and (not _ORIGIN.fullmatch(origin) or _DEFAULT_PORT.fullmatch(origin)):
            raise ValueError(
                f"{origin} is no origin as browsers send it: scheme://host, in lower case, and an unusual port"
            )
    return origins


def _listed(text: str) -> tuple[str, ...]:
    """Values separated by commas or spaces, in lower case."""
    return tuple(text.lower().replace(",", " ").split())


class Settings(BaseModel):
    """Each field is the variable ``EYESTATE_<FIELD>``; its description is that of the documentation."""

    model_config = ConfigDict(frozen=True)

    device: Annotated[Device, _AnyCase] = Field(
        "auto", description="what computes: `auto`, `cpu`, `openvino`, `cuda` or `tensorrt`"
    )
    workers: int = Field(1, ge=1, le=256, description="processes that answer requests; each holds the model")
    timeout: float = Field(60, gt=0, le=3600, description="seconds a request may take before it is answered with 504")
    keep_alive: float = Field(
        75,
        gt=0,
        le=3600,
        description="seconds a connection may be idle between requests; more than load balancers allow",
    )
    drain: float = Field(
        3, ge=0, le=600, description="seconds after SIGTERM in which requests are still taken while `/readyz` says 503"
    )
    queue: int = Field(
        65_536, ge=1, description="crops that may wait in a worker before requests are answered with 429"
    )
    gpu_memory: int | None = Field(
        None, ge=1024, description="MiB of GPU memory that each network of each worker may take, 1024 at least"
    )
    engines: DirectoryPath | None = Field(
        None, description="folder in which TensorRT keeps the engines that it has built"
    )
    streams: int = Field(2_000, ge=0, description="streams (`/v1/stream`) that may be open in a worker; 0 takes none")
    api_keys_file: FilePath | None = Field(
        None, description="file of API keys, one a line; without it the service is open to all"
    )
    drift_reference: FilePath | None = Field(
        None, description="file of `eyestate drift-reference`: what drift is told against in place of the model's crops"
    )
    model_control: bool = Field(
        False, description="whether requests may load models, where keys are required those with an `admin` key"
    )
    shadow_model: str | None = Field(
        None, description="a second bundle that scores some of the crops, unseen, to be told how often it disagrees"
    )
    shadow_share: float = Field(0.1, gt=0, le=1, description="share of the requests whose crops it scores, 0 to 1")
    allowed_origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = Field(
        (), description="origins whose pages may use the service, such as `https://app.example`; `*` for all"
    )
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="names under which the service is reached, such as `eyes.example`; others are then refused"
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(_listed)] = Field(
        (), description="addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed"
    )
    grpc_port: int | None = Field(
        None, ge=1, le=65_535, description="port for the inference protocol over gRPC; without it there is none"
    )
    log_level: Annotated[LogLevel, _AnyCase] = Field(
        "info", description="`info` logs refused requests, `debug` every request"
    )


def settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of a service. An empty variable counts as unset, and names of a choice may be in capitals.

    Raises:
        SettingError: a variable has an invalid value; the message names both.
    """
    given = {field: environment.get(PREFIX + field.upper()) for field in Settings.model_fields}
    try:
        return Settings.model_validate({field: value for field, value in given.items() if value})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        variable = PREFIX + str(fault["loc"][0]).upper()
        reason = fault["msg"].removeprefix("Value error, ")
        raise SettingError(f"{variable} is {given[str(fault['loc'][0])]!r}: {reason}") from None


def device_from_environment(environment: Mapping[str, str] = os.environ) -> Device:
    """``$EYESTATE_DEVICE``, or ``auto``: the one setting that the model runtime has in common with the service.

    Raises:
        SettingError: there is no such device.
    """
    given = environment.get(f"{PREFIX}DEVICE") or "auto"
    if (device := given.lower()) not in get_args(Device):
        raise SettingError(f"{PREFIX}DEVICE is {given!r}: choose one of {', '.join(get_args(Device))}")
    return cast("Device", device)


def unknown_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """The variables ``EYESTATE_…`` that nothing reads, each with the closest known name, if one is close."""
    known = [name.upper() for name in (*Settings.model_fields, *_OTHERS)]
    given = sorted(name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX))
    unknown = [name for name in given if name not in known and not _SERVICE_LINK.match(name)]
    closest = {name: difflib.get_close_matches(name, known, 1) for name in unknown}
    return {PREFIX + name: PREFIX + matches[0] if matches else None for name, matches in closest.items()}
