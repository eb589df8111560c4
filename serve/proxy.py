"""What Serve's HTTP proxy lets through, and what it says itself where the service is away.

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middlewares    # set by `cllm serve`
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.middleware import Middleware

from serve.guard import App, Receive, Scope, Send
from serve.problems import Problem


class Readable:
    """An ASGI app around another: 400 where a header is no UTF-8."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or _readable(scope["headers"]):
            await self.app(scope, receive, send)
            return
        for message in Problem(400, "a header is not UTF-8").messages():
            await send(message)


def _readable(headers: list[tuple[bytes, bytes]]) -> bool:
    try:
        for name, value in headers:
            name.decode()
            value.decode()
    except UnicodeDecodeError:
        return False
    return True


class Later:
    """An ASGI app around another: a 503 of the proxy's own says when to come back."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass all on; add the header where it lacks."""

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503:
                headers = [(bytes(name).lower(), value) for name, value in message["headers"]]
                if b"retry-after" not in dict(headers):
                    message = {**message, "headers": [*headers, (b"retry-after", b"5")]}
            await send(message)

        await self.app(scope, receive, sent)


def middlewares() -> list[Middleware]:
    """As Serve asks for them."""
    return [Middleware(Later), Middleware(Readable)]
