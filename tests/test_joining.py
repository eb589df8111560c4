"""Why a cluster cannot be joined, in one line."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("ray")
from cllm.errors import InputError
from cluster import joining
from cluster.joining import joined, require


def test_an_address_where_nobody_listens_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, so that nobody else listens there
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=rf"no Ray cluster answers at 127\.0\.0\.1:{port}"),
            joined(f"127.0.0.1:{port}"),
        ):
            pass


@pytest.mark.parametrize("address", ["nonsense:", "http://", "a:b"])
def test_what_is_no_address_is_named(address: str) -> None:
    with pytest.raises(InputError, match="no Ray cluster answers at"), joined(address):
        pass


def test_a_refused_token_is_told_from_other_refusals() -> None:
    inner = RuntimeError("RPC error: InvalidAuthToken: missing or incorrect")
    outer = ConnectionError("Failed to connect")
    outer.__cause__ = inner
    assert "token" in joining._refused("head:6379", outer)
    assert "token" not in joining._refused("head:6379", ConnectionError("Failed to connect"))


def nodes_of(*resources: dict[str, float]) -> list[dict[str, object]]:
    return [{"Alive": True, "Resources": one} for one in resources]


def test_missing_resources_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    two = [*nodes_of({"CPU": 2.0}, {"CPU": 2.0}), {"Alive": False, "Resources": {"CPU": 9.0}}]
    monkeypatch.setattr(joining.ray, "nodes", lambda: two)
    monkeypatch.setattr(joining.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(joining.ray, "available_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(joining, "_take_back_requests", lambda: asked.append("back"))
    monkeypatch.setattr(joining, "_ask_autoscaler", lambda *what: asked.append(what))
    require({"CPU": 1.0}, 4, "4 workers", 0)
    assert not asked
    with pytest.raises(InputError, match=r"9 workers need 9 CPU, 9 GPU, .*has 4 CPU, 0 GPU, room"):
        require({"CPU": 1.0, "GPU": 1.0}, 9, "9 workers", 0)
    with pytest.raises(InputError, match=r"3 CPU each on one node.*room for 0 of them"):
        require({"CPU": 3.0}, 1, "1 worker", 0)
    assert asked == [({"CPU": 1.0, "GPU": 1.0}, 9), "back", ({"CPU": 3.0}, 1), "back"]


def test_what_other_work_uses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining.ray, "nodes", lambda: nodes_of({"CPU": 4.0}))
    monkeypatch.setattr(joining.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(joining.ray, "available_resources", lambda: {"CPU": 1.0})
    for name in ("_ask_autoscaler", "_take_back_requests"):
        monkeypatch.setattr(joining, name, lambda *_: None)
    require({"CPU": 1.0}, 1, "1 worker", 0)
    with pytest.raises(InputError, match="room for 4 of them, 3 CPU in use; add nodes"):
        require({"CPU": 1.0}, 2, "2 workers", 0)


def test_no_cpu_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="2 shards of 0 CPU each; give each more than 0"):
        require({"CPU": 0.0}, 2, "2 shards", 0)


def test_nodes_that_come_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = iter([[], [], nodes_of({"GPU": 8.0})])
    monkeypatch.setattr(joining.ray, "nodes", lambda: next(there))
    for name in ("cluster_resources", "available_resources"):
        monkeypatch.setattr(joining.ray, name, lambda: {"GPU": 8.0})
    for name in ("_ask_autoscaler", "_take_back_requests"):
        monkeypatch.setattr(joining, name, lambda *_: None)
    monkeypatch.setattr(joining, "LOOK_SECONDS", 0.0)
    require({"GPU": 1.0}, 8, "8 workers", 60)
