"""The endpoint and its page over hands in this process: for tests, screenshots, and a first look.

with served(LocalHands.load(run), Limits()) as url: ...
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import uvicorn

from serve.api import make_app
from serve.guard import Guard
from serve.keys import Keys
from serve.local import LocalHands
from serve.settings import Limits

QUIET: Any = SimpleNamespace(
    request=lambda *_: None, working=lambda _: None, text=lambda _: None
)  # counts nothing


def guarded(hands: LocalHands, limits: Limits, keys: Keys | None = None) -> Guard:
    """The app of a service behind its guard."""
    return Guard(make_app(lambda: hands, limits, QUIET), limits, keys, QUIET)


@contextmanager
def served(hands: LocalHands, limits: Limits, keys: Keys | None = None) -> Iterator[str]:
    """The address of a server of it on a free port of loopback, while the block runs."""
    server = uvicorn.Server(uvicorn.Config(guarded(hands, limits, keys), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        thread = threading.Thread(target=server.run, args=([free],))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.05)
            yield f"http://127.0.0.1:{free.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
