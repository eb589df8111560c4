"""The client and the page, against a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from cllm.errors import InputError
from cllm.run import SHIPPED, RunFolder
from serve.client import Client, Refused
from serve.guard import Rates
from serve.in_process import guarded, served
from serve.keys import Keys, hashed
from serve.local import LocalHands
from serve.schemas import End, Generate
from serve.settings import Limits

pytestmark = pytest.mark.serve

KEYS = Keys({"ann": hashed("a key")})


@pytest.fixture(scope="module")
def hands() -> LocalHands:
    return LocalHands.load(RunFolder(SHIPPED))


@pytest.fixture(scope="module")
def url(hands: LocalHands) -> Iterator[str]:
    with served(hands, Limits(per_minute=0), KEYS) as one:
        yield one


def test_the_client_gets_what_the_service_tells(url: str) -> None:
    client = Client(url, "a key")
    assert client.ready()
    *items, end = client.generate(Generate(n=2, topic="soup leeks", seed=1))
    assert isinstance(end, End)
    assert [item.number for item in items] == [0, 1] == list(range(end.found))
    texts = [item.text for item in items]
    vectors = client.encode(texts)
    assert len(vectors) == len(client.decode(vectors)) == 2
    assert client.neighbours(texts[:1], 2)[0][0].text
    assert [step.at for step in client.interpolate(*texts, steps=3)] == [0, 0.5, 1]
    assert "soup" in client.search("soup")[0].text
    assert client.model().model["dim"] == len(vectors[0])
    assert len(client.map(5).points) == 5
    assert client.voids().void_dim <= len(vectors[0])


def test_the_client_says_why_not(url: str) -> None:
    with pytest.raises(Refused, match=r"401: give a key") as refused:
        Client(url, "another").model()
    assert refused.value.exit_status == 1
    with pytest.raises(Refused, match="no text has all words"):
        next(Client(url, "a key").generate(Generate(topic="xyzzy")))
    with pytest.raises(InputError, match="no service answers at"):
        Client("http://127.0.0.1:1").model()
    with pytest.raises(InputError, match="no address of a service"):
        Client("file:///etc/passwd").model()
    assert not Client("http://127.0.0.1:1").ready()


def test_the_page_needs_no_key_and_nothing_from_elsewhere(hands: LocalHands) -> None:
    client = TestClient(guarded(hands, Limits(), KEYS), "http://localhost")
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    sizes = len(page.content)
    for name, kind in (("page.js", "javascript"), ("page.css", "css")):
        file = client.get(f"/{name}")
        assert kind in file.headers["content-type"]
        assert name in page.text
        sizes += len(file.content)
    assert sizes < 300_000
    assert "http" not in page.text.replace('charset="utf-8"', "")
    assert "style=" not in page.text  # which its own policy forbids
    assert client.get("/index.html").status_code == 401


def test_a_bucket_fills_evenly() -> None:
    now = 0.0
    rates = Rates(60, clock=lambda: now)
    assert [rates.take("a") for _ in range(60)] == [0] * 60
    assert rates.take("a") == pytest.approx(1)
    assert rates.take("b") == 0  # has a bucket of its own
    now = 0.5
    assert rates.take("a") == pytest.approx(0.5)
    now = 1.1
    assert rates.take("a") == 0
    assert Rates(0).take("a") == 0
