"""Another model that chooses: a small stand-in for an endpoint that speaks chat completions."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from toys import command

from cllm import discovery
from cllm.errors import InputError, WorkError
from cllm.ideas import load_ideas
from cllm.ranking import best_first
from cllm.run import SHIPPED, RunFolder
from cllm.scorer import Scorer, choose
from cllm.settling import USUAL, Correction

TEXTS = ["first", "second", "third"]
Reply = Callable[[str, Any], tuple[int, bytes]]


@contextmanager
def stand_in(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An endpoint that answers so, and what it was asked."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            heard.append(
                {"path": self.path, "body": body, "key": self.headers.get("Authorization")}
            )
            status, words = reply(self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(words)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", heard
        finally:
            server.shutdown()


def says(words: str) -> Reply:
    def reply(path: str, _: Any) -> tuple[int, bytes]:
        if path.endswith("/models"):
            return 200, b'{"data": [{"id": "small"}, {"id": "other"}]}'
        return 200, json.dumps({"choices": [{"message": {"content": words}}]}).encode()

    return reply


@pytest.mark.parametrize(
    "words", ["[3, 1]", "```json\n[3, 1]\n```", "I like [3, 1]", "[3, 1,]", "[03 1]"]
)
def test_its_list_is_the_order(words: str) -> None:
    with stand_in(says(words)) as (url, heard):
        assert choose(Scorer(url, key="secret"), TEXTS) == [2, 0]
        assert [one["path"] for one in heard] == ["/v1/models", "/v1/chat/completions"]
        asked = heard[1]["body"]
        assert asked["model"] == "small"
        assert "2. second" in asked["messages"][1]["content"]
        assert {one["key"] for one in heard} == {"Bearer secret"}
        assert choose(Scorer(url, model="mine"), TEXTS) == [2, 0]
        assert heard[-1]["body"]["model"] == "mine"
        assert choose(Scorer(url), []) == []
    with stand_in(says("None is of use: []")) as (url, _):
        assert choose(Scorer(url, model="any"), TEXTS) == []


@pytest.mark.parametrize(
    "reply",
    [says("the third"), says("[4]"), says("[0]"), says("[1, 1]"), says("[-1]"),
     says(f"[{'1' * 5000}]"), says("[²]"), lambda *_: (200, b"[" * 100_000),
     lambda *_: (200, b"rubbish"), lambda *_: (200, b'{"choices": []}'), lambda *_: (200, b"[]"),
     lambda *_: (500, b"trace"), lambda *_: (401, b"")],
)  # fmt: skip
def test_rubbish_is_refused_in_one_line(reply: Reply) -> None:
    with stand_in(reply) as (url, _), pytest.raises(WorkError, match="the ideas are kept") as told:
        choose(Scorer(url, model="any"), TEXTS)
    assert url in str(told.value)
    assert "\n" not in str(told.value)


def test_one_that_is_late_or_away_or_no_address_is_named() -> None:
    def late(*_: Any) -> tuple[int, bytes]:
        time.sleep(2)
        return 200, b""

    with stand_in(late) as (url, _), pytest.raises(WorkError, match="timed out"):
        choose(Scorer(url, model="any", seconds=0.2), TEXTS)
    with pytest.raises(WorkError, match="no answer"):
        choose(Scorer("http://127.0.0.1:1/v1"), TEXTS)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "http://h:abc", "http://a b", "http://[::1", "http://", "host/v1",
     "http://h:0/v1"],
)  # fmt: skip
def test_what_is_no_address_is_told_before_anything_is_written(url: str) -> None:
    with pytest.raises(InputError, match="no address of a scorer"):
        Scorer(url)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"SSH-2.0-OpenSSH\r\n", "no answer"),
     (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no answer"),
     (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "no (JSON|answer)"),
     (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n", "no answer"),
     (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "timed out"),  # and then drips
     (b"HTTP/1.1 200 OK\r\nX: ", "timed out")],
)  # fmt: skip
def test_one_that_goes_away_or_drips_or_speaks_no_http_is_named(answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as caller, suppress(OSError):
                caller.recv(65_536)
                caller.sendall(answer)
                while words == "timed out":  # a byte at a time, for ever
                    caller.sendall(b" ")
                    time.sleep(0.1)

        threading.Thread(target=serve, daemon=True).start()
        scorer = Scorer(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "any", seconds=0.5)
        begun = time.monotonic()
        with pytest.raises(WorkError, match=words):
            choose(scorer, TEXTS)
    assert time.monotonic() - begun < 10  # a dripping one would hold it for ever


def test_what_it_chose_is_kept_and_comes_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED, run.path)
    made_by = run.load_latents().model_hash
    ideas = load_ideas(run.ideas, made_by)
    new = [idea for idea in best_first(ideas) if idea.yields]
    before = run.ideas.read_bytes()
    with stand_in(says("nothing")) as (url, _), pytest.raises(WorkError):
        discovery.let_choose(run, ideas, Scorer(url), 4)
    assert run.ideas.read_bytes() == before
    with stand_in(says("[4, 2]")) as (url, heard):
        discovery.let_choose(run, ideas, Scorer(url), 4)
    offered = heard[-1]["body"]["messages"][1]["content"]
    numbers = re.findall(r"(?:^|\n\n)(\d+)\. ", offered)
    assert numbers == ["1", "2", "3", "4"], "no more are offered than were asked for"
    kept = best_first(load_ideas(run.ideas, made_by))
    assert [idea.id for idea in kept[:2]] == [new[3].id, new[1].id]
    assert [idea.chosen for idea in kept[:3]] == [1, 2, None]
    assert discovery.idea_rows(kept, {})[0]["text"] == new[3].text


def test_the_command_has_it_choose_and_refuses_an_address_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED, run.path)
    written: list[int] = []

    def write_ideas(folder: RunFolder, seed: int, n: int, how: Correction) -> list[Any]:
        assert how == USUAL
        written.append(n)
        return load_ideas(folder.ideas, folder.load_latents().model_hash)

    monkeypatch.setattr(discovery, "write_ideas", write_ideas)
    words = ["generate", "--run", str(run.path), "--n", "9", "--json", "--candidates", "4"]
    assert command(*words, "--scorer", "http://a b") == 2
    assert "no address of a scorer" in capsys.readouterr().err
    assert not written
    with stand_in(says("[3]")) as (url, heard):
        assert command(*words, "--scorer", url, "--scorer-model", "mine") == 0
    assert heard[-1]["body"]["model"] == "mine"
    first = json.loads(capsys.readouterr().out)["ideas"][0]
    assert first["chosen"] == 1
    assert first["text"] in heard[-1]["body"]["messages"][1]["content"]
    assert command(*words, "--scorer", "http://127.0.0.1:1/v1") == 1
    assert "the ideas are kept" in capsys.readouterr().err
