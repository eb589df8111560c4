"""What the endpoint makes of requests that nobody should send: a clear no, and it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from bench._rubbish import answers, described, fault, rubbish, slow
from cllm.run import SHIPPED, RunFolder
from serve.client import Client
from serve.in_process import served
from serve.local import LocalHands
from serve.settings import Limits

pytestmark = [pytest.mark.serve, pytest.mark.chain]
LIMITS = Limits(per_minute=0, n=2, decodes=8, texts=2, body_seconds=10, in_flight=16)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(LocalHands.load(RunFolder(SHIPPED)), LIMITS) as one:
        yield one


def place(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def test_bytes_bodies_paths_and_headers_out_of_shape(url: str) -> None:
    statuses = Counter[int | None]()
    for request, status, answer in answers(*place(url), [*rubbish(np.random.default_rng(0), 600)]):
        statuses[status] += 1
        assert not fault(status, answer), (request[:300], answer[:500])
    assert {400, 404, 405, 413, 422} <= statuses.keys()
    assert Client(url).ready()


def test_what_its_description_allows_and_what_it_forbids(url: str) -> None:
    statuses = Counter[int | None]()
    for path, status, answer in described(url, 30):
        statuses[status] += 1
        assert not fault(status, answer), (path, answer[:500])
    assert {200, 422} <= statuses.keys()
    assert Client(url).ready()


def test_who_sends_half_a_request_keeps_nobody_waiting(url: str) -> None:
    def asked() -> None:
        assert Client(url, seconds=20).encode(["title: leek soup."])

    slow(*place(url), 100, asked)


def test_the_watch_itself_sees_faults() -> None:
    assert fault(500, b"") == "answered 500"
    assert fault(503, b"HTTP/1.1 503\r\n\r\n") == "503 without Retry-After"
    assert fault(503, b"HTTP/1.1 503\r\nRetry-After: 1\r\n\r\n") is None
    assert fault(422, b"\r\n\r\nTraceback (most recent call last)") == "tells 'Traceback'"
    assert fault(422, b"\r\n\r\n/root/run") == "tells '/root/'"
