"""Structured logs: one JSON line an event, in a bounded rotating file, on stderr, or both.

Owns the allow list of what a log line may say. Keys that are not on it keep their name and lose their value, so an
amount, a name or an account can't leave by a careless keyword. Errors are logged as types and places: their messages
are not ours to vouch for.
Never decides what is worth logging, and never lets another library's own text through.
"""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

_ALLOWED = (
    "event level timestamp component logger error_type causes traceback "
    "shard shards epoch position after rows frames commits checkpoint segments sets lines entries count attempt "
    "accepted duplicate rejected conflict waiting held open_items pid port owner holder worker feed message_id "
    "code column reason exception_type kind mode lane state outcome mapping_version entry_key entry_no incident "
    "method status duration_ms retry_after_s rate_per_minute bytes queue_bytes version fsync replicas consumer"
)
ALLOWED_KEYS = frozenset(_ALLOWED.split())
WITHHELD = "[withheld]"
TEXT_CHARS_MAX = 200
FILE_BYTES_MAX = 10 * 2**20
FILES_KEPT = 4
CAUSES_MAX = 5
PLACES_MAX = 12

_installed: list[logging.Handler] = []


def configure(component: str, folder: Path | str | None = None, level: str = "info", *, stderr: bool = False) -> None:
    """Send this process's logs to `folder/component.jsonl`; without a folder, or with `stderr`, to stderr as well.

    Call once at process start; calling again replaces what was set. Two processes may not share a component name and
    folder: each would rotate the other's file away.
    """
    formatter = _formatter(component)
    _replace_handlers(_handlers(component, folder, stderr), formatter)
    logging.getLogger("penstock").setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=lambda *names: logging.getLogger(".".join(("penstock", *names))),
        cache_logger_on_first_use=False,
    )


def withhold(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep the values of allowed keys, if they are plain and short; replace all others."""
    return {key: _allowed(key, value) for key, value in event.items()}


def place_errors(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by the error's type, its causes' types, and the places it passed through."""
    error = _error_of(event.pop("exc_info", None))
    if error is not None:
        event["error_type"] = type(error).__name__
        event["causes"] = _causes(error)
        event["traceback"] = _places(error.__traceback__)
    return event


def _formatter(component: str) -> logging.Formatter:
    def name_component(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return event | {"component": component}

    return structlog.stdlib.ProcessorFormatter(
        use_get_message=False,
        foreign_pre_chain=[_mute_foreign],
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            name_component,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            place_errors,
            withhold,
            structlog.processors.JSONRenderer(),
        ],
    )


def _handlers(component: str, folder: Path | str | None, stderr: bool) -> list[logging.Handler]:
    handlers: list[logging.Handler] = []
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"{component}.jsonl"
        handlers.append(
            RotatingFileHandler(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8", delay=True)
        )
    if stderr or folder is None:
        handlers.append(logging.StreamHandler(sys.stderr))
    return handlers


def _replace_handlers(handlers: list[logging.Handler], formatter: logging.Formatter) -> None:
    root = logging.getLogger()
    while _installed:
        old = _installed.pop()
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
        _installed.append(handler)


def _mute_foreign(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Say which library logged and where, not what: its text may quote a row, a parameter or a password."""
    record: logging.LogRecord = event["_record"]
    return event | {"event": "library log", "logger": record.name, "reason": f"{record.module}:{record.lineno}"}


def _allowed(key: str, value: Any) -> Any:
    if key not in ALLOWED_KEYS:
        return WITHHELD
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, int)) for item in value):
        return [item[:TEXT_CHARS_MAX] if isinstance(item, str) else item for item in value[:PLACES_MAX]]
    return WITHHELD


def _error_of(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info else None


def _causes(error: BaseException) -> list[str]:
    names: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(names) < CAUSES_MAX:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return names


def _places(traceback: TracebackType | None) -> list[str]:
    """The innermost places, outermost first, as `folder/file.py:line`."""
    places: list[str] = []
    while traceback is not None:
        parts = Path(traceback.tb_frame.f_code.co_filename).parts[-2:]
        places.append(f"{'/'.join(parts)}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return places[-PLACES_MAX:]
