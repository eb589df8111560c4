"""What Serve's HTTP proxy lets through: header bytes that it cannot read would make it fail.

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middlewares    # set by `cllm serve`
"""

from __future__ import annotations

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


def middlewares() -> list[Middleware]:
    """As Serve asks for them."""
    return [Middleware(Readable)]
