"""What nobody should send to an endpoint: bytes, bodies, paths and headers out of shape.

for status, answer in answers(host, port, [*rubbish(rng, 1000)]): ...
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

Rng = np.random.Generator

POSTS = ("generate", "encode", "decode", "interpolate", "neighbours")
FIELDS = (
    "n", "seed", "void", "near", "between", "topic", "min_radius", "min_score", "novel", "decodes",
    "neighbours", "stream", "vectors", "texts", "first", "last", "steps", "k",
)  # fmt: skip
VALUES = (
    "null", "true", "-1", "0", "1e999", "-0.0", "NaN", "Infinity", "1" * 400, '""', '"\\ud800"',
    '"\\u0000"', "[]", "{}", "[[]]", "[[0,0]]", "[[1e308,1e308]]", "[null]", '["a","b"]',
    '{"a":{"b":[1]}}', '"' + "a" * 20_000 + '"', "[" * 3000 + "]" * 3000, "[[0.1,NaN]]",
    '"ä\u202e💣"',
)  # fmt: skip
PATHS = (
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page.js/../../keys.json",
    "/%00", "/v1/texts/-1", "/v1/texts/99999999999999999999999", "/v1/texts/1e3", "/v1/texts/%ff",
    "/v1/map?points=-1", "/v1/map?points=1e9", "/v1/map?points=NaN", "/v1/texts?query=%ff%fe",
    "/v1/texts?k=0&query=a", "/v1/generate/../../..", "/" + "a" * 6000, "/v1/unknown", "/-/other",
    "/v1/texts?query=" + "a" * 3000, "/openapi.json/..", "/page.css%00.js", "/.git/config", "/docs",
)  # fmt: skip
HEADERS = (
    "Content-Length: -1", "Content-Length: 1\r\nContent-Length: 2", "Content-Length: abc",
    "Transfer-Encoding: chunked", "Authorization: " + "x" * 5000, "X-Request-Id: a\tb",
    "X-Request-Id: ../../x", "Host: evil.example", "Accept: \xff\xfe", "Content-Type: text/\xff",
    "Expect: 100-continue", "Connection: upgrade\r\nUpgrade: websocket", ": empty", "NoColon",
    "Cookie: " + "y" * 5000, "X-Request-Id: \xff\xfe", "\xff: name", "Authorization: Bearer \xff",
)  # fmt: skip
LEAKS = re.compile(r'Traceback|site-packages|File "|/home/|/root/|root:|\.py\b')
MEBIBYTE = 2**20


def rubbish(rng: Rng, count: int) -> Iterator[bytes]:
    """So many requests, as the bytes of a connection."""
    kinds = (noise, noisy_body, odd_fields, odd_path, odd_header, odd_method, deep, large)
    share = np.array([4, 4, 8, 4, 4, 1, 1, 0.2])
    for kind in rng.choice(len(kinds), count, p=share / share.sum()):
        yield kinds[kind](rng)


def noise(rng: Rng) -> bytes:
    """Bytes of chance."""
    return rng.bytes(int(rng.integers(1, 400))) + b"\r\n\r\n"


def noisy_body(rng: Rng) -> bytes:
    """A sound head, and a body of chance."""
    return post(rng, rng.bytes(int(rng.integers(0, 400))))


def odd_fields(rng: Rng) -> bytes:
    """JSON with fields of wrong types and values."""
    names = rng.choice(FIELDS, int(rng.integers(1, 5)), replace=False)
    return post(rng, ("{" + ",".join(
        f'"{name}":{VALUES[rng.integers(len(VALUES))]}' for name in names
    ) + "}").encode("utf-8", "surrogatepass"))  # fmt: skip


def odd_path(rng: Rng) -> bytes:
    """A path that leads nowhere, or should not."""
    return _head("GET", PATHS[rng.integers(len(PATHS))])


def odd_header(rng: Rng) -> bytes:
    """A head that is not one."""
    more = HEADERS[rng.integers(len(HEADERS))]
    body = b"" if "Transfer" not in more else b"zz\r\nnot a chunk\r\n"
    return _head("POST", "/v1/encode", more) + body


def odd_method(rng: Rng) -> bytes:
    """A method that the path does not have."""
    words = ("PUT", "DELETE", "TRACE", "CONNECT", "PATCH", "OPTIONS", "HEAD", "BREW", "get")
    return _head(words[rng.integers(len(words))], "/v1/generate")


def deep(rng: Rng) -> bytes:
    """JSON of many levels."""
    return post(rng, b'{"topic":' + b"[" * int(rng.integers(100, 100_000)))


def large(rng: Rng) -> bytes:
    """More than is taken; where the head says so, and where it does not."""
    if rng.random() < 0.5:
        return post(rng, b" " * 2 * MEBIBYTE)
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    return _head("POST", "/v1/encode", "Transfer-Encoding: chunked") + 32 * chunk + b"0\r\n\r\n"


def post(rng: Rng, body: bytes) -> bytes:
    """A body, sent to one of the paths that take one."""
    path = f"/v1/{POSTS[rng.integers(len(POSTS))]}"
    more = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    return _head("POST", path, more) + body


def _head(method: str, path: str, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *more, "Connection: close", "", ""]
    if not any(line.startswith("Host") for line in more):
        lines.insert(1, "Host: localhost")
    return "\r\n".join(lines).encode("latin-1")


# ---- by the description of the API -------------------------------------------------------


def described(url: str, examples: int, seed: int = 0) -> Iterator[tuple[str, int, bytes]]:
    """What schemathesis makes of `/openapi.json`, sound and unsound: path, status, answer."""
    from hypothesis import HealthCheck, given, settings, strategies
    from hypothesis import seed as seeded
    from schemathesis import GenerationMode, openapi

    def asked(operation: Any) -> list[tuple[str, int, bytes]]:  # noqa: ANN401
        told = list[tuple[str, int, bytes]]()
        kinds = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

        @seeded(seed)
        @settings(max_examples=examples, database=None, deadline=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(strategies.one_of(kinds))
        def ask(case: Any) -> None:  # noqa: ANN401
            answer = case.call(base_url=url, timeout=180)
            head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            whole = head.encode() + b"\r\n" + answer.content
            told.append((operation.path, answer.status_code, whole))

        ask()
        return told

    for found in openapi.from_url(f"{url}/openapi.json").get_all_operations():
        yield from asked(found.ok())


# ---- sending -----------------------------------------------------------------------------


def answers(
    host: str, port: int, requests: list[bytes], clients: int = 8
) -> Iterator[tuple[bytes, int | None, bytes]]:
    """Each request with its status (None: the connection was closed instead) and whole answer."""

    def one(request: bytes) -> tuple[bytes, int | None, bytes]:
        answer = sent(host, port, request)
        found = re.match(rb"(?:HTTP/1\.\d 1\d\d .*?\r\n\r\n)*HTTP/1\.\d (\d{3})", answer, re.DOTALL)
        return request, int(found[1]) if found else None, answer

    with ThreadPoolExecutor(clients) as pool:
        yield from pool.map(one, requests)


def sent(host: str, port: int, request: bytes, seconds: float = 60) -> bytes:
    """What comes back until the other side closes; TimeoutError where it does not."""
    parts = []
    with socket.create_connection((host, port), timeout=seconds) as one:
        with suppress(ConnectionError):  # it has heard enough
            one.sendall(request)
        with suppress(ConnectionError):
            while part := one.recv(65_536):
                parts.append(part)
    return b"".join(parts)


def fault(status: int | None, answer: bytes) -> str | None:
    """What is wrong with how a request was answered."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if status in (500, 502, 504):
        return f"answered {status}"
    if status == 503 and b"retry-after" not in head.lower():
        return "503 without Retry-After"
    if found := LEAKS.search(body.decode("latin-1")):
        return f"tells {found[0]!r}"
    return None


def slow(host: str, port: int, connections: int, work: Callable[[], None]) -> None:
    """Do some work while as many connections have sent half a request and no more."""
    held = []
    try:
        for number in range(connections):
            one = socket.create_connection((host, port), timeout=10)
            body = json.dumps({"texts": ["a"]})
            whole = post(np.random.default_rng(number), body.encode())
            one.sendall(whole[: len(whole) // 2 if number % 2 else -3])  # in its head, in its body
            held.append(one)
        work()
    finally:
        for one in held:
            one.close()
