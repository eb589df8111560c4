"""What Serve's HTTP proxy is given to wrap its own answers with."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serve.proxy import middlewares

pytestmark = pytest.mark.serve


def test_an_answer_of_the_proxys_own_says_when_to_come_back() -> None:
    app = Starlette(
        routes=[
            Route("/away", lambda _: PlainTextResponse("away", 503)),
            Route("/busy", lambda _: PlainTextResponse("busy", 503, {"Retry-After": "1"})),
            Route("/there", lambda _: PlainTextResponse("there")),
        ],
        middleware=middlewares(),
    )
    client = TestClient(app)
    assert client.get("/away").headers["retry-after"] == "5"
    assert client.get("/busy").headers.get_list("retry-after") == ["1"]
    assert "retry-after" not in client.get("/there").headers
