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


def test_a_cluster_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(joining, "_init", asked.append)
    monkeypatch.setattr(joining.ray, "shutdown", lambda: None)
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{head.getsockname()[1]}"
        monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: place)
        with joined(for_data=False):
            pass
        head.listen()
        with joined(for_data=False):
            pass
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: None)
    with joined(for_data=False):
        pass
    assert asked == ["local", None, None]


@pytest.mark.parametrize(("address", "noted"), [(None, "192.0.2.1:6379"), ("auto", "127.0.0.1:1")])
def test_one_of_another_machine_or_one_that_must_run_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, address: str | None, noted: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(joining, "REACHED_SECONDS", 0.2)
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: noted)
    with pytest.raises(InputError, match=f"no Ray cluster answers at {noted}"), joined(address):
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


class Room:
    """A placement group that is there after so many looks."""

    def __init__(self, looks: float) -> None:
        self.looks, self.waited, self.removed = looks, [], False

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return len(self.waited) > self.looks


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Of a cluster of 2 + 2 CPUs, one in use, and a node that is gone."""
    room = Room(looks=float("inf"))
    two = [*nodes_of({"CPU": 2.0}, {"CPU": 2.0}), {"Alive": False, "Resources": {"CPU": 9.0}}]
    monkeypatch.setattr(joining.ray, "nodes", lambda: two)
    monkeypatch.setattr(joining.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(joining.ray, "available_resources", lambda: {"CPU": 3.0})
    monkeypatch.setattr(joining, "placement_group", lambda bundles: room)
    monkeypatch.setattr(
        joining, "remove_placement_group", lambda room: setattr(room, "removed", True)
    )
    return room


@pytest.mark.parametrize(
    ("each", "count", "words"),
    [
        ({"CPU": 1.0, "GPU": 1.0}, 9, r"9 workers need 9 CPU, 9 GPU, .*has 4 CPU, 0 GPU, 1 CPU"),
        ({"CPU": 3.0}, 1, r"3 CPU each on one node.*1 CPU in use, room for 0 of them"),
        ({"CPU": 1.0}, 4, r"has 4 CPU, 1 CPU in use, room for 4 of them; add nodes"),
    ],
)
def test_missing_resources_are_listed(
    room: Room, each: dict[str, float], count: int, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        require(each, count, f"{count} workers", 5)
    assert room.waited == [joining.LOOK_SECONDS, 5]
    assert room.removed


@pytest.mark.parametrize("looks", [0, 1])
def test_nodes_that_come_are_waited_for(room: Room, looks: int) -> None:
    room.looks = looks
    require({"CPU": 1.0}, 8, "8 workers", 60)
    assert room.removed


def test_no_cpu_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="2 shards of 0 CPU each; give each more than 0"):
        require({"CPU": 0.0}, 2, "2 shards", 0)


@pytest.mark.parametrize(("late", "starts"), [(1, True), (2, False)])
def test_ray_that_does_not_start_in_time_is_started_once_more(
    monkeypatch: pytest.MonkeyPatch, late: int, starts: bool
) -> None:
    begun = list[int]()

    def init(**_: object) -> None:
        begun.append(1)
        if len(begun) <= late:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if starts:
        with joined(for_data=False):
            assert len(begun) == 2
        return
    with pytest.raises(InputError, match="timed out"), joined(for_data=False):
        pass
    assert len(begun) == 2
