"""What every command shares: logging, one-line errors, exit status, JSON on request."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cllm.errors import InputError, WorkError

OURS = ("cllm", "cluster", "serve", "studies", "tune", "__main__")  # packages whose lines are told


def set_up_logging() -> None:
    """Our own lines to stderr; other libraries' only from warnings on, and no bars of theirs."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # Milvus's
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in OURS:
        logging.getLogger(ours).setLevel(logging.INFO)
    logging.captureWarnings(True)


_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
CTRL_C = 130  # what typer makes of it
INTERRUPTED = "interrupted; finished steps are kept, the same command goes on after them"


def stop_on_sigterm() -> None:
    """End on SIGTERM as on Ctrl-C, with a line and a status. Training has its own way."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn expected errors into one line on stderr and their exit status (2 or 1)."""
    try:
        yield
    except (InputError, WorkError) as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, 1)
    except SystemExit as leaving:
        if leaving.code == CTRL_C:
            _fail(INTERRUPTED, 1)
        raise
    except (MemoryError, RuntimeError) as error:  # torch's own are RuntimeErrors
        words = str(error).lower()
        if not isinstance(error, MemoryError) and not any(sign in words for sign in _NO_MEMORY):
            raise
        _fail("out of memory; use a smaller --dim, --preset or corpus", 1)
    except OSError as error:
        _fail(f"{error}; check the path and the disk", 1)


def emit(value: Any, as_json: bool, show: Callable[[], None] | None = None) -> None:  # noqa: ANN401
    """Print one JSON object, or let `show` print for people."""
    if as_json or show is None:
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    else:
        show()


def show_facts(facts: dict[str, Any]) -> None:
    """Names and values, a line each."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(
            name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)
        )
    Console().print(table)


def _fail(message: str, status: int) -> None:
    sys.stderr.write("cllm: " + " ".join(message.split()) + "\n")
    raise SystemExit(status)
