"""What the endpoint answers, without Ray: the app behind its guard, over the shipped run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from services import Counted
from starlette.testclient import TestClient

from cllm.errors import InputError
from cllm.run import SHIPPED, RunFolder
from cllm.sampler import rewritten
from cllm.sampling import Request, Rewritten
from cllm.store import NoAnswer
from cllm.where import Where
from serve.api import make_app
from serve.catalogue import Near
from serve.generation import GONE
from serve.guard import Guard
from serve.keys import KeyFile, Keys, Owners, add, hashed, remove
from serve.local import LocalHands, written
from serve.schemas import Generate, Item
from serve.settings import Limits

pytestmark = pytest.mark.serve


@dataclass(frozen=True)
class Here(LocalHands):
    """All hands in this process; the store may be away."""

    away: list[str]

    async def nearest(self, vectors_nD: np.ndarray, k: int) -> list[list[Near]]:
        await self.ready()
        return await super().nearest(vectors_nD, k)

    async def ready(self) -> None:
        if self.away:
            raise NoAnswer(self.away[0])


@pytest.fixture(scope="module")
def hands() -> Here:
    made = LocalHands.load(RunFolder(SHIPPED))
    return Here(made.model, made.places, made.likely, made.catalogue, [])


@pytest.fixture(scope="module")
def new_client(hands: Here) -> Callable[..., TestClient]:
    def make(keys: Owners | None = None, proxied: bool = False, **limits: Any) -> TestClient:
        allowed, counts = Limits(**limits), Counted()
        app = Guard(make_app(lambda: hands, allowed, counts), allowed, keys, counts, proxied)
        client = TestClient(app, "http://localhost", raise_server_exceptions=False)
        client.counts = counts
        return client

    return make


@pytest.fixture(scope="module")
def client(new_client: Callable[..., TestClient]) -> Iterator[TestClient]:
    with new_client() as one:
        yield one


def lines(response: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


def test_generate_streams_each_text_and_says_at_the_end_whether_all_were_found(
    client: TestClient, hands: Here
) -> None:
    asked = {"n": 3, "seed": 5, "topic": "soup leeks", "neighbours": 2, "vectors": True}
    answer = client.post("/v1/generate", json=asked)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    *items, end = lines(answer)
    assert end["end"] | {"decodes": 0} == {
        "found": 3, "asked": 3, "decodes": 0, "complete": True, "notes": []
    }  # fmt: skip
    offline = hands.sample(Request(Where(topic="soup leeks"), n=3, seed=5))
    assert [item["item"]["text"] for item in items] == [sample.idea.text for sample in offline]
    first = items[0]["item"]
    assert first["verdict"] in ("novel", "duplicate", "nonsense")
    assert len(first["nearest"]) == 2
    assert first["nearest"][0]["angle"] <= first["nearest"][1]["angle"]
    assert len(first["place"]["vector"]) == 32
    alone = [line for line in written(hands, Generate(**asked)) if isinstance(line, Item)]
    assert [line.model_dump() for line in alone] == [item["item"] for item in items]
    whole = client.post("/v1/generate", json=asked | {"stream": False}).json()
    assert whole["items"] == [item["item"] for item in items]
    assert whole["end"] == end["end"]


def test_where_nothing_is_found_the_end_says_so(client: TestClient) -> None:
    told = lines(client.post("/v1/generate", json={"topic": "soup", "min_score": 99}))
    assert len(told) == 1
    assert not told[0]["end"]["complete"]
    assert "no more were found after" in told[0]["end"]["notes"][0]
    assert "where it was asked for: 0; as wanted: 0" in told[0]["end"]["notes"][0]


def test_without_the_store_texts_come_without_neighbours_and_the_rest_says_503(
    client: TestClient, hands: Here
) -> None:
    hands.away.append("Milvus at /secret/place: away")
    try:
        item, end = lines(client.post("/v1/generate", json={"topic": "soup"}))
        assert item["item"]["nearest"] is None
        assert end["end"]["notes"] == [GONE]
        away = client.post("/v1/neighbours", json={"texts": ["soup"]})
        assert away.status_code == 503
        assert away.headers["retry-after"]
        assert "secret" not in away.text
        assert client.get("/v1/ready").json() == {"ready": True, "store": False}
    finally:
        hands.away.clear()
    assert client.get("/v1/ready").json() == {"ready": True, "store": True}


def test_encode_decode_interpolate_neighbours(client: TestClient, hands: Here) -> None:
    a, b = hands.places.train.texts[:2]
    vectors = client.post("/v1/encode", json={"texts": [a, b]}).json()["vectors"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert client.post("/v1/decode", json={"vectors": vectors}).json() == {
        "texts": hands.model.decode(np.array(vectors, np.float32))
    }
    huge = [[x * 1e30 for x in vectors[0]]]
    assert client.post("/v1/decode", json={"vectors": huge}).status_code == 200
    way = client.post("/v1/interpolate", json={"first": a, "last": b, "steps": 3}).json()["items"]
    assert [step["at"] for step in way] == [0, 0.5, 1]
    assert [step["text"] for step in way] == hands.model.interpolate(a, b, 3)
    for asked in ({"texts": [a]}, {"vectors": vectors[:1]}):
        (near,) = client.post("/v1/neighbours", json=asked | {"k": 3}).json()["neighbours"]
        assert near[0]["text"] == a
        assert near[0]["angle"] < 1e-2


def test_what_the_run_is(client: TestClient, hands: Here) -> None:
    facts = client.get("/v1/model").json()
    assert facts["model"]["dim"] == 32
    assert facts["texts"] == len(hands.places.train)
    assert facts["limits"]["n"] == Limits().n
    flat = client.get("/v1/map?points=100").json()
    assert (flat["shown"], flat["of"]) == (100, facts["texts"])
    assert client.get(f"/v1/texts/{flat['rows'][0]}").json()["text"]
    voids = client.get("/v1/voids").json()
    assert [void["id"] for void in voids["voids"]] == [void.id for void in hands.places.voids]
    assert all(void["rim"] for void in voids["voids"])
    found = client.get("/v1/texts", params={"query": "Leek SOUP", "k": 4}).json()
    assert len(found) == 4
    assert all("soup" in near["text"] and "leeks" in near["text"] for near in found)


def test_texts_are_written_amid_the_groups_that_were_asked_for(
    client: TestClient, hands: Here
) -> None:
    known = client.get("/v1/model").json()["groups"]
    assert sorted(known) == sorted(set(hands.places.subjects))
    for void in client.get("/v1/voids").json()["voids"]:
        amid = {hands.places.subjects[row] for row in hands.places.voids[void["id"]].rim}
        assert set(void["groups"]) == amid
        assert void["kind"] == {1: "within", 2: "between"}.get(len(amid), "across")
    for kind, least, most in (("between", 2, 2), ("across", 3, 99)):
        asked = {"groups": kind, "group": ["soup"], "topic": "soup leeks", "n": 1, "seed": 5}
        *items, end = lines(client.post("/v1/generate", json=asked))
        assert end["end"]["found"] == len(items) > 0
        for item in items:
            groups = item["item"]["place"]["groups"]
            assert "soup" in groups
            assert least <= len(set(groups)) <= most


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/v1/generate", {"n": 0}, 422, "n: "),
    ("POST", "/v1/generate", {"n": 1000}, 422, "50 at most"),
    ("POST", "/v1/generate", {"void": 999}, 422, "no void 999"),
    ("POST", "/v1/generate", {"topic": "xyzzy"}, 422, "no text has all words"),
    ("POST", "/v1/generate", {"topic": "a", "near": "b"}, 422, "give one of"),
    ("POST", "/v1/generate", {"groups": "beside"}, 422, "within"),
    ("POST", "/v1/generate", {"group": ["xyzzy"]}, 422, "xyzzy"),
    ("POST", "/v1/generate", {"groups": "within", "group": ["soup", "stew"]}, 422, "1 at most"),
    (
        "POST",
        "/v1/generate",
        {"groups": "between", "group": ["soup", "pie", "tacos"]},
        422,
        "2 at most",
    ),
    ("POST", "/v1/generate", {"group": ["soup"] * 9}, 422, "at most 8"),
    ("POST", "/v1/generate", {"where": 1}, 422, "Extra inputs"),
    ("POST", "/v1/generate", {"min_score": "NaN"}, 422, "finite"),
    ("POST", "/v1/encode", {"texts": []}, 422, "at least 1"),
    ("POST", "/v1/encode", {"texts": ["a"] * 65}, 422, "64 at most"),
    ("POST", "/v1/encode", {"texts": ["a" * 5001]}, 422, "5000 at most"),
    ("POST", "/v1/encode", {"texts": ["\ud800"]}, 422, "texts.0"),
    ("POST", "/v1/decode", {"vectors": [[0, 0]]}, 422, "zero"),
    ("POST", "/v1/decode", {"vectors": [[1]]}, 422, "1 coordinates"),
    ("POST", "/v1/decode", {"vectors": [[1] * 33]}, 422, "33 coordinates"),
    ("POST", "/v1/decode", {"vectors": [["x", 1]]}, 422, "vectors.0.0"),
    ("POST", "/v1/neighbours", {"k": 3}, 422, "give texts or vectors"),
    ("GET", "/v1/map?points=0", None, 422, "points"),
    ("GET", "/v1/texts/99999999", None, 404, "no such text"),
    ("GET", "/v1/nothing", None, 404, ""),
    ("GET", "/../../etc/passwd", None, 404, ""),
    ("GET", "/v1/generate", None, 405, ""),
    ("POST", "/v1/encode", {"texts": "a"}, 422, "texts"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "words"), REFUSED)
def test_what_is_not_asked_for_well_is_a_problem_that_says_why(
    client: TestClient, method: str, path: str, body: Any, status: int, words: str
) -> None:
    content = None if body is None else json.dumps(body).encode()
    answer = client.request(
        method, path, content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert words in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"n": NaN}', b'{"n": 1e999}', b"null"]
)
def test_rubbish_is_refused(client: TestClient, content: bytes) -> None:
    answer = client.post(
        "/v1/generate", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_is_read_no_further_than_its_limit(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    assert client.post("/v1/encode", content=b" " * 1_000_001).status_code == 413
    assert client.post("/v1/encode", content=endless()).status_code == 413


def test_no_call_without_a_key_that_is_known(
    new_client: Callable[..., TestClient], tmp_path: Any
) -> None:
    path = tmp_path / "keys.json"
    key, other = add(path, "ann"), add(path, "bob")
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    client = new_client(KeyFile(path))
    answers = [
        client.get("/v1/model", headers={"authorization": words} if words else {})
        for words in (None, "", f"Basic {key}", "Bearer", "Bearer wrong", f"Bearer {key[:-1]}")
    ]
    assert {answer.status_code for answer in answers} == {401}
    alike = {json.dumps(answer.json() | {"request_id": ""}) for answer in answers}
    assert len(alike) == 1  # nothing tells them apart
    for good in (key, other):
        told = client.get("/v1/model", headers={"authorization": f"Bearer {good}"})
        assert told.status_code == 200


def test_keys_that_are_renewed_or_removed_count_no_more_at_once(
    new_client: Callable[..., TestClient], tmp_path: Any
) -> None:
    path = tmp_path / "keys.json"
    key, other = add(path, "ann"), add(path, "bob")
    client = new_client(KeyFile(path))

    def let_in(one: str) -> bool:
        told = client.get("/v1/model", headers={"authorization": f"Bearer {one}"})
        assert told.status_code in (200, 401)
        return bool(told.status_code == 200)

    assert let_in(key)
    renewed = add(path, "ann")
    assert (let_in(key), let_in(renewed), let_in(other)) == (False, True, True)
    remove(path, "bob")
    assert (let_in(renewed), let_in(other)) == (True, False)
    with pytest.raises(InputError, match="no key of 'bob'; there are ann"):
        remove(path, "bob")
    kept = path.read_bytes()
    path.write_text("{")  # damaged: nobody's
    assert not let_in(renewed)
    path.unlink()
    assert not let_in(renewed)
    path.write_bytes(kept)
    assert let_in(renewed)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = list[str]()

    def compare(given: str, known: str) -> bool:
        compared.append(known)
        return given == known

    monkeypatch.setattr("serve.keys.hmac.compare_digest", compare)
    keys = Keys({"ann": hashed("a"), "bob": hashed("b")})
    for key in ("a", "b", "c", ""):
        keys.owner(key)
    assert compared == [hashed("a"), hashed("b")] * 4


def test_probes_and_the_page_are_answered_however_much_is_worked_on(
    new_client: Callable[..., TestClient],
) -> None:
    busy = new_client(Keys({"ann": hashed("key")}), in_flight=2, per_minute=1)
    busy.app.working = 2
    for path in ("/v1/ready", "/", "/page.js"):
        assert {busy.get(path).status_code for _ in range(3)} == {200}
    told = busy.get("/v1/model", headers={"authorization": "Bearer key"})
    assert told.status_code == 503
    assert told.headers["retry-after"]


def test_who_asks_too_often_is_told_when_to_come_back(
    new_client: Callable[..., TestClient],
) -> None:
    client = new_client(per_minute=3)
    told = [client.get("/v1/model") for _ in range(5)]
    assert [answer.status_code for answer in told] == [200] * 3 + [429] * 2
    assert 1 <= int(told[-1].headers["retry-after"]) <= 20


def test_a_request_that_takes_too_long_ends(
    new_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(self: Here, points_nD: np.ndarray) -> Rewritten:
        await asyncio.sleep(1)
        return rewritten(self.model, self.likely, points_nD)

    monkeypatch.setattr(Here, "rewrite", slow)
    client = new_client(seconds=0.05)
    slow = client.post("/v1/generate", json={"n": 50, "topic": "soup", "stream": False})
    assert slow.status_code == 503
    assert slow.headers["retry-after"]


def test_without_keys_only_this_machine_is_answered(
    client: TestClient, new_client: Callable[..., TestClient]
) -> None:
    for host in ("evil.example", "10.0.0.1:8000", ""):
        assert client.get("/v1/model", headers={"host": host}).status_code == 403
    for host in ("localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:8000"):
        assert client.get("/v1/model", headers={"host": host}).status_code == 200
    keyed = new_client(Keys({"ann": hashed("key")}))
    told = keyed.get("/v1/model", headers={"host": "a.example", "authorization": "Bearer key"})
    assert told.status_code == 200
    for path in ("/v1/model", "/openapi.json", "/v2", "/x/v1/ready"):
        assert keyed.get(path).status_code == 401
    assert TestClient(keyed.app, root_path="/x").get("/x/v1/model").status_code == 401


def test_what_fails_inside_tells_nothing_of_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(self: Here, texts: list[str]) -> np.ndarray:
        raise InputError("/home/ann/runs/x holds another model by now")

    monkeypatch.setattr(Here, "encode", failing)
    answer = client.post("/v1/encode", json={"texts": ["a"]})
    assert answer.status_code == 500
    assert "ann" not in answer.text


def test_no_more_requests_are_worked_on_than_allowed(
    new_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(self: Here, texts: list[str]) -> np.ndarray:
        await asyncio.sleep(1)
        return self.model.encode(texts)

    monkeypatch.setattr(Here, "encode", slow)
    client = new_client(in_flight=1)
    with client, ThreadPoolExecutor(3) as several:
        answers = list(several.map(
            lambda _: client.post("/v1/encode", json={"texts": ["a"]}), range(3)
        ))  # fmt: skip
    assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)


def test_every_answer_has_the_headers_that_keep_a_page_safe(client: TestClient) -> None:
    for path in ("/v1/model", "/v1/nothing"):
        headers = client.get(path, headers={"x-request-id": "mine-1"}).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"] == "mine-1"
    assert client.get("/v1/model", headers={"x-request-id": "a b\n"}).headers["x-request-id"]


def test_openapi_tells_every_path_with_examples(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    assert {f"/v1/{name}" for name in (
        "generate", "encode", "decode", "interpolate", "neighbours", "voids", "map", "model"
    )} <= told["paths"].keys()  # fmt: skip
    schemas: dict[str, Any] = told["components"]["schemas"]
    for name in ("Generate", "Texts", "Vectors", "Interpolate", "Neighbours"):
        assert schemas[name]["examples"]
    assert told["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    asked = told["paths"]["/v1/encode"]["post"]
    assert asked["security"] == [{"HTTPBearer": []}]
    problem = asked["responses"]["429"]["content"]["application/problem+json"]["schema"]
    assert {"title", "status", "detail"} <= problem["properties"].keys()


def test_an_id_that_a_proxy_tells_is_not_told_twice(
    new_client: Callable[..., TestClient],
) -> None:
    client = new_client(proxied=True)
    assert "x-request-id" not in client.get("/", headers={"x-request-id": "given"}).headers
    problem = client.get("/v1/texts/-1", headers={"x-request-id": "given"}).json()
    assert problem["request_id"] == "given"
    ours = client.get("/v1/texts/-1", headers={"x-request-id": "../x"})
    assert ours.headers["x-request-id"] == ours.json()["request_id"]
