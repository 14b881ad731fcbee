"""Structured logs: one JSON object a line on standard error, without image content."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

log = logging.getLogger("eyestate")

# What a log record always has; anything else came by `extra`.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, logger, process, message, and what came by ``extra``.

    All but printable ASCII is escaped: control characters and marks of direction would reach the reader's terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **{key: value for key, value in record.__dict__.items() if key not in _STANDARD and key[0] != "_"},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Send the logs of the service, BentoML, circus and uvicorn through one JSON handler.

    Args:
        level: of eyestate's own logs.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger().handlers[:] = [handler]
    for name in ("eyestate", "bentoml", "circus", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level.upper() if name == "eyestate" else "INFO")
    for name in ("circus", "uvicorn.error"):  # at INFO it logs starts and stops
        logging.getLogger(name).setLevel("WARNING")
    logging.getLogger("uvicorn.access").propagate = False  # so uvicorn writes no access log; the edge does


def warn_of_unknown(variables: Mapping[str, str | None]) -> None:
    """Warn of environment variables that nothing reads, in one line each.

    Args:
        variables: as ``eyestate.settings.unknown_variables`` finds them.
    """
    for name, closest in variables.items():
        log.warning("%s is not a setting%s", name, f"; did you mean {closest}?" if closest else "")
