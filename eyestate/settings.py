"""The settings of the service, from environment variables."""

from __future__ import annotations

import os
from functools import cache
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath, ValidationError

from eyestate.errors import SettingError

PREFIX: Final = "EYESTATE_"

Device = Literal["auto", "cpu", "openvino", "cuda", "tensorrt"]


class Settings(BaseModel):
    """Each field is the variable ``EYESTATE_<FIELD>``; its description is the README's."""

    model_config = ConfigDict(frozen=True)

    device: Device = Field("auto", description="what computes: `auto`, `cpu`, `openvino`, `cuda` or `tensorrt`")
    workers: int = Field(1, ge=1, le=256, description="processes that answer requests; each holds the model")
    timeout: float = Field(60, gt=0, le=3600, description="seconds a request may take before it is answered with 504")
    drain: float = Field(
        3, ge=0, le=600, description="seconds after SIGTERM in which requests are still taken while `/readyz` says 503"
    )
    queue: int = Field(
        65_536, ge=1, description="crops that may wait in a worker before requests are answered with 429"
    )
    api_keys_file: FilePath | None = Field(
        None, description="file of API keys, one a line; without it the service is open to all"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="`info` logs refused requests, `debug` every request"
    )


@cache
def settings() -> Settings:
    """The settings of this process.

    Raises:
        SettingError: a variable holds a value that it cannot have; the message names both.
    """
    given = {field: os.environ.get(PREFIX + field.upper()) for field in Settings.model_fields}
    try:
        return Settings.model_validate({field: value for field, value in given.items() if value})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        variable = PREFIX + str(fault["loc"][0]).upper()
        raise SettingError(f"{variable} is {fault['input']!r}: {fault['msg']}") from None
