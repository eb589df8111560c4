"""What every request passes first: its size, its key, its rate, how many are worked on, its id.

Plain ASGI around the app, so that nothing of a body is read that is not wanted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from serve.keys import Keys
from serve.metrics import Counts
from serve.problems import Problem, problem_of
from serve.settings import Limits

log = logging.getLogger("cllm.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/v1/",)  # paths that need a key and count; the page and its files do not
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
REMEMBERED = 10_000  # callers whose rate is known
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Rates:
    """A bucket for each caller, filled evenly through the minute (token bucket)."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, caller: str) -> float:
        """0, or the seconds until the caller may ask again."""
        if not self.per_minute:
            return 0.0
        now, speed = self.clock(), self.per_minute / 60
        left, since = self._left.pop(caller, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - since) * speed)
        wait = 0.0 if left >= 1 else (1 - left) / speed
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return wait


class Guard:
    """An ASGI app around another."""

    def __init__(self, app: App, limits: Limits, keys: Keys | None, counts: Counts) -> None:
        self.app, self.limits, self.keys, self.counts = app, limits, keys, counts
        self.rates, self.working = Rates(limits.per_minute), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        begun, who, counted = time.perf_counter(), "", scope["path"].startswith(OPEN)
        self.working += counted
        self.counts.working(self.working)
        try:
            if counted:
                who = self._admit(headers)
            await self._answered(scope, receive, answer)
        except Exception as error:
            await answer.fail(problem_of(error))
        finally:
            self.working -= counted
            took = time.perf_counter() - begun
            self.counts.request(scope["path"], answer.status, took, self.working)
            log.info(json.dumps({
                "request_id": request_id, "method": scope["method"], "path": scope["path"],
                "status": answer.status, "seconds": round(took, 4), "key": who,
            }))  # fmt: skip

    def _admit(self, headers: dict[bytes, bytes]) -> str:
        """Whose request it is; Problem where it may not be answered."""
        who = self._caller(headers)
        if wait := self.rates.take(who):
            raise Problem(429, f"more than {self.limits.per_minute} requests a minute", wait)
        if self.working > self.limits.in_flight:
            raise Problem(503, "too many requests are worked on; come back", 1)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limits.body_bytes:
            raise Problem(413, f"a body may have {self.limits.body_bytes} bytes")
        return who

    def _caller(self, headers: dict[bytes, bytes]) -> str:
        if self.keys is None:
            return ""
        kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        owner = self.keys.owner(key.strip())
        if kind.lower() != "bearer" or owner is None:
            raise Problem(401, "give a key as `Authorization: Bearer KEY`")
        return owner

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        read = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limits.body_bytes:  # of a body that does not say its length
                answer.instead = Problem(413, f"a body may have {self.limits.body_bytes} bytes")
                raise answer.instead
            return message

        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, limited, answer)
        except TimeoutError:
            raise Problem(
                503, f"not done within {self.limits.seconds:g} s; ask for less", 1
            ) from None


class _Answer:
    """Sends an answer on, with the headers that all have; remembers how it went."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.send, self.request_id, self.status, self.begun = send, request_id, 0, False
        self.instead: Problem | None = None  # whatever the app makes of it

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if self.instead and not self.begun:
            await self.fail(self.instead)
        elif not self.instead:
            await self._pass(message)

    async def _pass(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            more = HEADERS | {"X-Request-Id": self.request_id}
            headers = [(name.lower().encode(), value.encode()) for name, value in more.items()]
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await self.send(message)

    async def fail(self, problem: Problem) -> None:
        """Answer with a problem, where no answer has begun; else only break off."""
        if self.begun:
            self.status = problem.status
            raise problem
        response = problem.response(self.request_id)
        await self._pass({"type": "http.response.start", "status": response.status_code,
                          "headers": response.raw_headers})  # fmt: skip
        await self._pass({"type": "http.response.body", "body": response.body})
