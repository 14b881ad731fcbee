"""Optuna's studies, kept in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna


@contextmanager
def open_studies(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's studies in a SQLite file, closed afterwards."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
