"""What every request passes first: its size, its key, its rate, how many are worked on, its id.

Plain ASGI around the app, so that nothing of a body is read that is not wanted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from serve.hosts import is_address, is_loopback
from serve.keys import Owners
from serve.metrics import Counts
from serve.problems import Problem, problem_of
from serve.settings import Limits

log = logging.getLogger("cllm.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# what needs no key, and is answered however many requests are worked on: nothing of the run
OPEN = ("/", "/page.js", "/page.css", "/v1/ready")
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

    def __init__(
        self,
        app: App,
        limits: Limits,
        keys: Owners | None,
        counts: Counts,
        proxied: bool = False,
    ) -> None:
        self.app, self.limits, self.keys, self.counts = app, limits, keys, counts
        self.proxied = proxied  # by Serve, which tells request ids itself
        self.rates, self.working, self.ending = Rates(limits.per_minute), 0, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        told = self.proxied and given == request_id
        answer, begun, owner = _Answer(send, "" if told else request_id), time.perf_counter(), ""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            if self.keys is None:
                _require_loopback(scope, headers)
            if path not in OPEN:
                owner = self._admit(headers)
            body = await self._body(headers, receive)
            room = math.inf if path in OPEN else self.limits.in_flight
            await self._worked_on(scope, _replayed(body, receive), answer, room)
        except Exception as error:
            if not answer.ended:  # the app's framework answers, and raises again what it met
                await answer.fail(problem_of(error, request_id), request_id)
        finally:
            took = time.perf_counter() - begun
            self.counts.request(path, answer.status, took, self.working)
            log.info(json.dumps({
                "request_id": request_id, "method": scope["method"], "path": path,
                "status": answer.status, "seconds": round(took, 4), "key": owner,
            }))  # fmt: skip

    def _admit(self, headers: dict[bytes, bytes]) -> str:
        """Whose request it is; Problem where it may not be answered."""
        owner = self._owner(headers)
        if wait := self.rates.take(owner):
            raise Problem(429, f"more than {self.limits.per_minute} requests a minute", wait)
        return owner

    def _owner(self, headers: dict[bytes, bytes]) -> str:
        if self.keys is None:
            return ""
        kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        owner = self.keys.owner(key.strip())
        if kind.lower() != "bearer" or owner is None:
            raise Problem(401, "give a key as `Authorization: Bearer KEY`")
        return owner

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """All of it, before the request counts as worked on: slow senders take nobody's place."""
        most, parts, size = self.limits.body_bytes, list[bytes](), 0
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            raise Problem(413, f"a body may have {most} bytes")
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    size += len(parts[-1])
                    if size > most:
                        raise Problem(413, f"a body may have {most} bytes")
        except TimeoutError:
            raise Problem(408, "the body did not come in time") from None
        return b"".join(parts)

    async def end(self) -> None:
        """Accept nothing more; returns when all that was accepted is answered."""
        self.ending = True
        while self.working:
            await asyncio.sleep(0.05)

    async def _worked_on(
        self, scope: Scope, receive: Receive, answer: _Answer, room: float
    ) -> None:
        if self.ending:
            raise Problem(503, "the service ends", 5)
        if self.working >= room:
            raise Problem(503, "too many requests are worked on; come back", 1)
        self.working += 1
        self.counts.working(self.working)
        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.app(scope, receive, answer)
        except TimeoutError:
            words = f"not done within {self.limits.seconds:g} s; ask for less"
            raise Problem(503, words, 1) from None
        finally:
            self.working -= 1


def _require_loopback(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Where nobody needs a key, only this machine may ask, and no page that calls itself so."""
    host = headers.get(b"host", b"").decode("latin-1")
    asked = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    client = (scope.get("client") or ("",))[0]
    if not is_loopback(asked) or (is_address(client) and not is_loopback(client)):
        raise Problem(403, "without keys this service answers its own machine alone")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body again, then what comes after it."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> MutableMapping[str, Any]:
        return left.pop() if left else await receive()

    return replay


class _Answer:
    """Sends an answer on, with the headers that all have; remembers how it went."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.send, self.status = send, 0
        self.more = HEADERS | ({"X-Request-Id": request_id} if request_id else {})
        self.begun = self.ended = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            headers = [(name.lower().encode(), value.encode()) for name, value in self.more.items()]
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self.send(message)

    async def fail(self, problem: Problem, request_id: str) -> None:
        """Answer with a problem, where no answer has begun; else break off what is not whole."""
        if self.begun:
            self.status = problem.status
            raise problem
        for message in problem.messages(request_id):
            await self(message)
