"""Services that are started, and clients that ask them, for `bench.serve`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

TOPICS = ("soup", "salad", "pizza", "pasta", "curry", "rice")
IDLE = 0.4  # cores
ENDS = 60.0  # seconds that a service has to end


@dataclass(frozen=True)
class Running:
    """A service that was started, and how long its first answer took."""

    url: str
    process: psutil.Process
    seconds: float


@contextmanager
def service(options: argparse.Namespace) -> Iterator[Running]:
    """`cllm serve`, from its start to its end."""
    command = [str(Path(sys.executable).parent / "cllm"), "serve", "--json", "--per-minute", "0"]
    if options.run:
        command += ["--run", str(options.run)]
    command += ["--port", str(free_port()), *shlex.split(options.serve)]
    with started(command) as one:
        wait_until_idle(one.process)  # it answers while further models load
        yield one


@contextmanager
def plain(options: argparse.Namespace) -> Iterator[Running]:
    """A FastAPI app that calls the library for each request."""
    port = free_port()
    command = [sys.executable, "-m", "bench._plain", str(port)]
    with started(command + ([str(options.run)] if options.run else [])) as one:
        yield one


@contextmanager
def started(command: list[str]) -> Iterator[Running]:
    """A server that prints where it is, as JSON, once it is there."""
    begun, env = time.monotonic(), os.environ | {"RAY_ADDRESS": "local"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    ) as process:  # fmt: skip
        assert process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{' '.join(command)} ended with {process.wait()}")
            url = json.loads(line)["url"]
            wait_for(url, process)
            asyncio.run(ask_all(url, [body_of(0, 1)], 1))
            yield Running(url, psutil.Process(process.pid), time.monotonic() - begun)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(ENDS)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Until it listens there, unless it ends."""
    host, port = url.removeprefix("http://").split(":")
    while process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.02)


def wait_until_idle(process: psutil.Process) -> None:
    """Until a process and what it started use little of a core."""
    used = cpu_seconds(process)
    while True:
        time.sleep(1)
        used, before = cpu_seconds(process), used
        if used - before < IDLE:
            return


def cpu_seconds(process: psutil.Process) -> float:
    """That a process and what it started have used."""
    return over_all(process, lambda one: sum(one.cpu_times()[:2]))


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# ---- requests ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came back, and after how long."""

    status: int
    seconds: float
    told: Any
    retry_after: str | None = None


def body_of(number: int, texts: int) -> dict[str, Any]:
    """The request of a number: each has its own seed and one of a few topics."""
    return {"topic": TOPICS[number % len(TOPICS)], "n": texts, "seed": number,
            "stream": False, "neighbours": 0}  # fmt: skip


@asynccontextmanager
async def session_of(url: str) -> AsyncIterator[Callable[[str, Any], Awaitable[Answer]]]:
    """A way to ask one service."""
    limits = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=180)
    async with aiohttp.ClientSession(url, connector=limits, timeout=patience) as session:

        async def ask(path: str, body: Any) -> Answer:  # noqa: ANN401 - JSON
            begun = time.perf_counter()
            async with session.post(path, json=body) as answer:
                told = await answer.json(content_type=None)
                took = time.perf_counter() - begun
                return Answer(answer.status, took, told, answer.headers.get("Retry-After"))

        yield ask


async def ask_all(url: str, bodies: list[dict[str, Any]], clients: int) -> list[Answer]:
    """All answers, of so many clients, each of which asks again when it is answered."""
    left, answers = iter(bodies), list[Answer]()

    async with session_of(url) as ask:

        async def client() -> None:
            for body in left:
                answers.append(await ask("/v1/generate", body))

        await asyncio.gather(*(client() for _ in range(clients)))
    wrong = [answer for answer in answers if answer.status != 200]
    if wrong:
        raise SystemExit(f"{url} answered {wrong[0].status}: {wrong[0].told}")
    return answers


def texts_of(answer: Answer) -> list[str]:
    """The texts of an answer."""
    return [item["text"] for item in answer.told["items"]]


def own_memory(process: psutil.Process) -> float:
    """MiB that a process and what it started have to themselves."""
    return over_all(process, lambda one: one.memory_full_info().uss) / 2**20


def over_all(process: psutil.Process, of: Callable[[psutil.Process], float]) -> float:
    """A sum over a process and what it started, as far as they have not ended."""
    whole = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            whole += of(one)
        except psutil.Error:
            continue
    return whole
