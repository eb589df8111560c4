"""What Serve's HTTP proxy lets through: header bytes that it cannot read would make it fail.

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middlewares    # set by `cllm serve`
"""

from __future__ import annotations

import json

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
        problem = Problem(400, "a header is not UTF-8")
        headers = [(n.lower().encode(), v.encode()) for n, v in problem.headers.items()]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(problem.told()).encode()})


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
