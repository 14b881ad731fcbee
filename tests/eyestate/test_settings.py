from __future__ import annotations

from pathlib import Path

import pytest

from eyestate.errors import SettingError
from eyestate.settings import Settings, settings


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
    read = settings.__wrapped__()
    assert read == Settings(device="cpu", workers=3, timeout=2.5, api_keys_file=tmp_path / "keys")


@pytest.mark.parametrize(
    ("name", "value"),
    [("DEVICE", "tpu"), ("WORKERS", "0"), ("WORKERS", "many"), ("TIMEOUT", "-1"), ("API_KEYS_FILE", "/not/there")],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"EYESTATE_{name}", value)
    with pytest.raises(SettingError, match=f"EYESTATE_{name} is '{value}'"):
        settings.__wrapped__()


def test_the_readme_lists_every_setting() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `EYESTATE_{name.upper()}` | {field.description} |" in readme
