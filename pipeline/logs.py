"""Logging of the command line: text on a terminal, one JSON object a line elsewhere, always on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["JsonFormatter", "configure"]

CHATTY = ("aioice", "aiortc", "aiohttp", "asyncio", "libav", "matplotlib", "PIL")
"""Libraries that write addresses, SDP or noise below WARNING; our logs hold none of these."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (s since the epoch), level, logger, message; error and traceback where there is one.

    Pure ASCII, so that it stays JSON whatever stderr's encoding makes of other characters.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        entry: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = repr(record.exc_info[1])
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(level: str = "info", *, debug: bool = False) -> None:
    """Send this process's log to stderr. ``debug`` shows everything, the libraries' own words included."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
        formatter.converter = time.localtime
        handler.setFormatter(formatter)
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if debug else logging.WARNING)
