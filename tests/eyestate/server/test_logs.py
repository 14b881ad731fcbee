"""Logs as they come out of a worker, after BentoML has set up its own."""

from __future__ import annotations

import json
import subprocess
import sys

ODD = "\x1b]0;title\x07 \x7f \x9b31m \u202e \u2028"
WORKER = (
    f"ODD = {ODD!a}"
    + """
import logging
from bentoml._internal.log import configure_server_logging
from eyestate.server import logs

configure_server_logging()  # as a worker does before it loads the service
logs.configure("info")
for name in ("eyestate.requests", "bentoml.service", "circus", "uvicorn", "uvicorn.error", "other"):
    logging.getLogger(name).warning("a warning of %s", name, extra={"detail": name})
    try:
        raise ValueError("two\\nlines")
    except ValueError:
        logging.getLogger(name).exception("an error")
    logging.getLogger(name).debug("not logged")
logging.getLogger("eyestate.requests").info("%s", ODD, extra={"odd": ODD})
for name in ("circus", "uvicorn.error", "uvicorn.access"):
    logging.getLogger(name).info("not logged")
"""
)


def test_each_record_is_one_line_of_json_once() -> None:
    result = subprocess.run([sys.executable, "-c", WORKER], check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == ""
    assert result.stderr.isascii()
    assert result.stderr.replace("\n", "").isprintable()
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    odd = lines.pop()
    assert odd["message"] == odd["odd"] == ODD
    names = ["eyestate.requests", "bentoml.service", "circus", "uvicorn", "uvicorn.error", "other"]
    assert [line["logger"] for line in lines] == [name for name in names for _ in range(2)]
    for warning, error in zip(lines[::2], lines[1::2], strict=True):
        assert (warning["level"], warning["message"]) == ("warning", f"a warning of {warning['logger']}")
        assert warning["detail"] == warning["logger"]
        assert error["level"] == "error"
        assert error["traceback"].endswith("ValueError: two\nlines")
