from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from eyestate.errors import SettingError
from eyestate.settings import Settings, device_from_environment, settings, unknown_variables


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k")
    for name, value in {
        "DEVICE": "cpu",
        "WORKERS": "3",
        "TIMEOUT": "2.5",
        "API_KEYS_FILE": str(tmp_path / "keys"),
        "LOG_LEVEL": "",
    }.items():
        monkeypatch.setenv(f"EYESTATE_{name}", value)
    assert settings() == Settings(device="cpu", workers=3, timeout=2.5, api_keys_file=tmp_path / "keys")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEVICE", "tpu"),
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("TIMEOUT", "-1"),
        ("GPU_MEMORY", "512"),
        ("ENGINES", "/not/there"),
        ("API_KEYS_FILE", "/not/there"),
        ("ALLOWED_ORIGINS", "https://app.example/"),
        ("ALLOWED_ORIGINS", "https://App.example"),
        ("ALLOWED_ORIGINS", "https://app.example:443"),
        ("ALLOWED_ORIGINS", "https://*.example"),
        ("ALLOWED_ORIGINS", "http://localhost, app.example"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"EYESTATE_{name}", value)
    with pytest.raises(SettingError, match=re.escape(f"EYESTATE_{name} is '{value}'")):
        settings()


def test_names_of_a_choice_may_be_in_capitals() -> None:
    """As most programs have them; said for whatever setting is a choice."""
    choices = {
        name: get_args(field.annotation)
        for name, field in Settings.model_fields.items()
        if get_origin(field.annotation) is Literal
    }
    assert {"device", "log_level"} <= choices.keys()
    for name, names in choices.items():
        for value in names:
            for written in (value.upper(), value.title()):
                assert getattr(settings({f"EYESTATE_{name.upper()}": written}), name) == value
    with pytest.raises(SettingError, match="EYESTATE_LOG_LEVEL is 'LOUD'"):
        settings({"EYESTATE_LOG_LEVEL": "LOUD"})


def test_origins_are_separated_by_commas_or_spaces() -> None:
    given = {"EYESTATE_ALLOWED_ORIGINS": " https://app.example,http://localhost:5173  http://[::1]:81, "}
    origins = ("https://app.example", "http://localhost:5173", "http://[::1]:81")
    assert settings(given).allowed_origins == origins
    assert settings({"EYESTATE_ALLOWED_ORIGINS": "*"}).allowed_origins == ("*",)
    assert settings({}).allowed_origins == ()


def test_the_documentation_lists_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert f"| `EYESTATE_{name.upper()}` | {field.description} |" in page


def test_the_device_is_read_without_the_settings_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_WORKERS", "none at all")
    monkeypatch.delenv("EYESTATE_DEVICE", raising=False)
    assert device_from_environment() == "auto"
    assert device_from_environment({"EYESTATE_DEVICE": "openvino"}) == "openvino"
    assert device_from_environment({"EYESTATE_DEVICE": "CPU"}) == "cpu"
    with pytest.raises(SettingError, match="EYESTATE_DEVICE is 'tpu': choose one of auto, cpu"):
        device_from_environment({"EYESTATE_DEVICE": "tpu"})


def test_misspelt_variables_are_found_with_the_name_that_was_meant() -> None:
    environment = {"EYESTATE_WORKER": "2", "EYESTATE_XYZ": "1", "EYESTATE_MODEL": "cascade", "EYESTATE_QUEUE": "5"}
    environment["EYESTATE_KSERVE_PYTHON"] = "/kserve/bin/python"
    assert unknown_variables(environment | {"HOME": "/"}) == {
        "EYESTATE_WORKER": "EYESTATE_WORKERS",
        "EYESTATE_XYZ": None,
    }


def test_the_variables_of_a_kubernetes_service_are_not_misspelt_settings() -> None:
    names = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR")
    assert unknown_variables({f"EYESTATE_{name}": "10.0.0.1" for name in names}) == {}
    assert unknown_variables({"EYESTATE_PORTS": "1"}).keys() == {"EYESTATE_PORTS"}
