"""Logging: events with fields, in the words of journal and metrics, to stderr and a rotating file."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

# structlog imports rich when it is installed, for a renderer that is not used here: 100 ms and 12 MB of a daemon's 50.
_hide_rich = "rich" not in sys.modules
if _hide_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _hide_rich:
    del sys.modules["rich"]

LOG_NAME = "daemon.log"
LOG_BYTES = 2_000_000
LOG_FILES = 4


class _TolerantFile(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """A full disk costs the line, not the daemon; stderr has it too."""


def log_path(state_directory: Path) -> Path:
    """Where the daemon of a state directory writes its newest events; older ones are in ``.1`` to ``.3`` beside it."""
    return state_directory / "logs" / LOG_NAME


def set_level(level: str) -> None:
    """Drop events below ``level`` from now on."""
    logging.getLogger("autotuner").setLevel(level.upper())


def configure_log(level: str, directory: Path | None, to_stderr: bool = True) -> None:
    """Send every event of this process to ``<directory>/daemon.log``, and to stderr.

    Without ``to_stderr`` only what the file cannot take goes there: a service manager that keeps stderr in a file of its own
    would let that file grow for ever.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)] if to_stderr else []
    reason = ""
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handlers.append(_TolerantFile(directory / LOG_NAME, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1))
        except OSError as error:
            reason = str(error)
            handlers = handlers or [logging.StreamHandler(sys.stderr)]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers, force=True)
    set_level(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    if reason:
        get_log().warning("log_file_unavailable", why=reason)


def get_log() -> structlog.stdlib.BoundLogger:
    """The daemon's log."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger("autotuner")
    return log
