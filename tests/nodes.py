"""A real Ray cluster on one machine: a head and workers, each in a network namespace of its own.

That needs root and iproute2. Nodes have addresses 10.77.x.2, .3, …; a node can be killed, cut off
from the others, and joined again. What a user would type runs on the head's node. Elsewhere nodes
are raylets side by side, which can be killed but not cut off.
    with cluster_of(workers=2) as cluster:
        cluster.run(["-m", "cluster.train", "--run", run]).check_returncode()
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
START_SECONDS = 90
TOKEN = secrets.token_hex(32)  # of all clusters of a process, which reads it once
_COUNT = itertools.count()


def possible() -> bool:
    """Whether this machine lets us make namespaces, and nobody asked to do without."""
    if os.environ.get("CLLM_NO_NAMESPACES") or os.geteuid() or not shutil.which("ip"):
        return False
    name = f"cllm-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        _ip("netns", "del", name)
    return made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@dataclass
class Node:
    """One machine: a namespace, its address and its raylet."""

    name: str
    address: str
    cable: str  # the end that the bridge holds
    raylet: subprocess.Popen[bytes] | None = None

    @property
    def inside(self) -> list[str]:
        """What comes before a command that is to run on it."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.cable, "down")

    def join(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.cable, "up")

    def processes(self, word: str = "") -> list[int]:
        """Ids of its processes whose command line holds a word."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True
        ).stdout.split()
        return [pid for pid in map(int, found) if word in _command(pid)]

    def kill(self) -> None:
        """End every process of the machine at once."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self.raylet:
            self.raylet.wait()

    @contextmanager
    def covered(self, path: Path, by: Path | None = None, size: str = "100m") -> Iterator[None]:
        """Let this machine see another folder, or an empty disk of a size, under a path."""
        (raylet, *_) = self.processes("raylet/raylet")
        there = ["nsenter", "-t", str(raylet), "-m"]
        what = ["--bind", str(by)] if by else ["-t", "tmpfs", "-o", f"size={size}", "none"]
        subprocess.run([*there, "mount", *what, str(path)], check=True)
        try:
            yield
        finally:
            subprocess.run([*there, "umount", "-l", str(path)], check=True)


@dataclass
class Cluster:
    """The nodes, the head first."""

    folder: Path
    number: int  # no other cluster of this machine has it
    nodes: list[Node] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What --address gets."""
        return f"{self.nodes[0].address}:{PORT}"

    def start(self, words: Sequence[str], node: int = 0, **changed: str) -> subprocess.Popen[str]:
        """A Python command on a node, its output in a pipe."""
        return subprocess.Popen(
            [*self.nodes[node].inside, sys.executable, *words],
            cwd=ROOT, env=self.env | {"RAY_ADDRESS": self.address} | changed, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, words: Sequence[str], node: int = 0, seconds: float = 300, **changed: str
    ) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        process = self.start(words, node, **changed)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{words} took more than {seconds} s:\n{err[-3000:]}") from None
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def add(self, cpus: int, resources: str = "{}") -> Node:
        """A node more; the first one is the head."""
        number = len(self.nodes)
        name, cable = f"cllm{self.number}n{number}", f"cl{self.number}n{number}"
        _ip("netns", "add", name)
        node = Node(name, f"{self.subnet}.{number + 2}", cable)
        self.nodes.append(node)
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", cable, "master", self.bridge, "up")
        for words in (
            ["addr", "add", f"{node.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", name, *words)
        shared, own = self.folder / "ray", self.folder / name  # a disk of its own for Ray's files
        place = (
            ["--head", f"--port={PORT}", f"--temp-dir={shared}", "--dashboard-host=0.0.0.0"]
            if number == 0 else [f"--address={self.address}"]
        )  # fmt: skip
        for path in (shared, own):
            path.mkdir(exist_ok=True)
        mount = f"mount --bind {own} {shared} && " if number else ""
        with (self.folder / f"{name}.log").open("wb") as log:
            node.raylet = subprocess.Popen(
                [
                    *node.inside, "sh", "-c", mount + 'exec "$@"', "sh",
                    RAY, "start", *place, "--block", f"--node-ip-address={node.address}",
                    f"--num-cpus={cpus}", f"--resources={resources}",
                    "--object-store-memory=200000000",
                ],
                env=self.env, stdout=log, stderr=log,
            )  # fmt: skip
        return node

    @property
    def subnet(self) -> str:
        """The first three numbers of their addresses."""
        return f"10.77.{self.number % 250}"

    @property
    def bridge(self) -> str:
        """What joins their cables."""
        return f"clbr{self.number}"

    def wait(self, node: Node) -> None:
        """Until its raylet runs."""
        begun = time.monotonic()
        file = self.folder / f"{node.name}.log"
        while "Ray runtime started" not in file.read_text(errors="replace"):
            ended = any(one.raylet is None or one.raylet.poll() is not None for one in self.nodes)
            if ended or time.monotonic() - begun > START_SECONDS:
                raise AssertionError(f"{node.name} did not start:\n{file.read_text()[-2000:]}")
            time.sleep(0.2)


class Neighbour(Node):
    """A raylet beside others on this machine, where there are no namespaces."""

    def __init__(self, cluster: Any, node: Any) -> None:
        super().__init__("", node.node_ip_address, "")
        self.cluster, self.node = cluster, node

    inside = ()

    def processes(self, word: str = "") -> list[int]:
        """Ids of its raylet and what that started."""
        raylet = psutil.Process(self.node.all_processes["raylet"][0].process.pid)
        every = [raylet, *raylet.children(recursive=True)]
        return [one.pid for one in every if word in _command(one.pid)]

    def kill(self) -> None:
        """End it at once."""
        self.cluster.remove_node(self.node, allow_graceful=False)

    def cut(self) -> None:
        """It has no cable."""
        pytest.skip("needs root and network namespaces (iproute2)")

    @contextmanager
    def covered(self, path: Path, by: Path | None = None, size: str = "") -> Iterator[None]:
        """It sees what all see."""
        del path, by, size
        pytest.skip("needs root and mount namespaces")
        yield


class Neighbours(Cluster):
    """The same without namespaces: Ray's own cluster for tests."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        from ray.cluster_utils import Cluster as Raylets

        super().__init__(folder, 0, env=env)
        shared = {"object_store_memory": 200_000_000}
        self.raylets = Raylets(
            initialize_head=True,
            head_node_args=shared | {"num_cpus": 0, "include_dashboard": True},
        )
        self.nodes.append(Neighbour(self.raylets, self.raylets.head_node))

    @property
    def address(self) -> str:
        """What --address gets."""
        return str(self.raylets.address)

    def add(self, cpus: int, resources: str = "{}") -> Node:
        """A node more."""
        del resources
        one = self.raylets.add_node(num_cpus=cpus, object_store_memory=200_000_000)
        self.nodes.append(Neighbour(self.raylets, one))
        return self.nodes[-1]

    def wait(self, node: Node) -> None:
        """It runs when `add` returns."""


@contextmanager
def cluster_of(workers: int = 2, cpus: int = 2) -> Iterator[Cluster]:
    """A head without CPUs and some workers; everything is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cl", dir="/tmp"))  # Ray's sockets want short paths
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    env |= {"TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    kind = _in_namespaces if possible() else _side_by_side
    try:
        with kind(folder, env) as cluster:
            for node in [cluster.add(cpus) for _ in range(workers)]:
                cluster.wait(node)
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _in_namespaces(folder: Path, env: dict[str, str]) -> Iterator[Cluster]:
    cluster = Cluster(folder, os.getpid() * 10 % 1_000_000 + next(_COUNT) % 10, env=env)
    _ip("link", "add", cluster.bridge, "type", "bridge")
    try:
        _ip("addr", "add", f"{cluster.subnet}.1/24", "dev", cluster.bridge)
        _ip("link", "set", cluster.bridge, "up")
        cluster.wait(cluster.add(0))
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            node.kill()
            subprocess.run(["ip", "netns", "del", node.name], capture_output=True)
            subprocess.run(["ip", "link", "del", node.cable], capture_output=True)
        subprocess.run(["ip", "link", "del", cluster.bridge], capture_output=True)


@contextmanager
def _side_by_side(folder: Path, env: dict[str, str]) -> Iterator[Cluster]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)  # its raylets take what this process has
    try:
        cluster = Neighbours(folder, env)
        try:
            yield cluster
        finally:
            cluster.raylets.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)
