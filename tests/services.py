"""`cllm serve` as a process, and visitors who ask it again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bench._load import free_port
from serve.client import Client
from serve.schemas import End, Generate


def eventually(found: Callable[[], object], seconds: float = 120) -> object:
    """What is found at last; AssertionError where it does not come in time."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError("it did not come")


@contextmanager
def served(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A service with these arguments, and what it told of itself; its log is in the folder."""
    command = [str(Path(sys.executable).parent / "cllm"), "serve", "--json"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--port", str(free_port()), *words], stdout=subprocess.PIPE, stderr=log,
            text=True, env=os.environ | {"RAY_ADDRESS": "local"},
        ) as process,
    ):  # fmt: skip
        assert process.stdout
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


class Counted:
    """Counts nothing; remembers verdicts."""

    def __init__(self) -> None:
        self.verdicts: list[str] = []

    def request(self, *_: Any) -> None: ...

    def working(self, _: int) -> None: ...

    def text(self, verdict: str) -> None:
        self.verdicts.append(verdict)


class Load:
    """Visitors who ask one thing again and again; what they got, and what went wrong."""

    def __init__(
        self, client: Client, asked: Generate, visitors: int = 2, patient: bool = False
    ) -> None:
        self.client, self.asked, self.visitors = client, asked, visitors
        self.patient = patient  # they go on asking where something went wrong
        self.failed, self.texts, self.notes = list[str](), list[list[str]](), list[str]()
        self._done = threading.Event()

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.visitors)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Waits until so many more requests were answered."""
        wanted = len(self.texts) + count
        while len(self.texts) < wanted and (self.patient or not self.failed):
            time.sleep(0.01)

    def _ask(self) -> None:
        while not self._done.is_set():
            try:
                *items, end = self.client.generate(self.asked)
            except Exception as error:
                self.failed.append(repr(error))
                if self.patient:
                    continue
                return
            assert isinstance(end, End)
            self.notes += end.notes
            self.texts.append([item.text for item in items])


def kill(process: subprocess.Popen[str], part: str) -> None:
    """SIGKILL for all replicas of a part."""
    replicas = [
        one for one in psutil.Process(process.pid).children(recursive=True)
        if f"ServeReplica:cllm:{part}" in _words(one)
    ]  # fmt: skip
    assert replicas
    for replica in replicas:
        replica.kill()


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
