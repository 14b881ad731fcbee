"""Structured logs: one JSON object a line on standard error, without image content."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

# What a log record always has; anything else came by `extra`.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, logger, process, message, and what came by ``extra``."""

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
        return json.dumps(line, ensure_ascii=False, default=str)


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
