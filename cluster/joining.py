"""Join a Ray cluster, or say in one line why not.

    with joined(options.address):
        require({"CPU": 2}, 2, "2 workers", seconds=30)

Without an address: that of a job (RAY_ADDRESS), else a cluster that runs on this machine, else
one started for the purpose.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cllm.errors import InputError, WorkError
from cluster.remote import Marker

log = logging.getLogger(__name__)

REACHED_SECONDS = 5.0
LOOK_SECONDS = 3.0  # before it is said that something is missing
# without it Ray shows all GPUs of a node to work that asked for none
HIDE_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}}


@contextmanager
def joined(address: str | None = None, *, for_data: bool = True) -> Iterator[None]:
    """A connection to the cluster, closed at the end. InputError: nobody is there, or no token.

    `for_data`: Ray Data will be used.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address in (None, "auto"):
        address = _instead_of_one_that_is_gone(address)
    if address and address not in ("auto", "local"):
        _require_listener(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    for tries_left in (1, 0):
        try:
            _init(address)
            break
        except Exception as error:  # of any kind: Ray's own start raises plain ones
            late = "timed out" in str(error).lower() and address in (None, "local")
            if not (late and tries_left):
                raise InputError(_refused(address, error)) from error
            log.warning("Ray did not start in time; once more")
            ray.shutdown()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own aborts with a dump
    if for_data:
        _set_up_data()
    try:
        yield
    except RayError as error:
        raise WorkError(
            f"the cluster could not do it: {last_line(error)}; "
            "see its logs; the same command goes on"
        ) from error
    finally:
        ray.shutdown()


def guarded() -> bool:
    """Whether the cluster that was joined asks for a token."""
    from ray._private.authentication.authentication_utils import (  # there is no public name
        is_token_auth_enabled,
    )

    return bool(is_token_auth_enabled())


def metrics_at() -> str:
    """Where the cluster's head tells Prometheus its metrics; Ray chooses the port."""
    head = next(node for node in ray.nodes() if "node:__internal_head__" in node["Resources"])
    return f"http://{head['NodeManagerAddress']}:{head['MetricsExportPort']}/metrics"


def _init(address: str | None) -> None:
    ray.init(
        address=address, log_to_driver=True, logging_level=logging.WARNING, runtime_env=HIDE_GPUS
    )


def _set_up_data() -> None:
    """Ray Data leaves progress to our own lines, and reads Parquet in as many tasks as it is told.

    Its newer reader takes one task, and lists files at 60 ms each (Ray 2.60).
    """
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.use_datasource_v2 = False


def require(each: Mapping[str, float], count: int, what: str, seconds: float) -> None:
    """Wait until nodes have these resources free `count` times; an autoscaler hears of it.

    InputError after that many seconds: says what is missing, or in use.
    """
    if min(each.values()) <= 0:
        raise InputError(f"{what} of {_listed(each)} each; give each more than 0")
    room = placement_group([dict(each)] * count)  # only to see whether it could be had
    try:
        if room.wait(LOOK_SECONDS):
            return
        log.info("waiting %.0f s for %s: room for %d of them", seconds, what, places(each))
        if room.wait(seconds):
            return
        there, free = ray.cluster_resources(), ray.available_resources()
        used = {k: there.get(k, 0.0) - free.get(k, 0.0) for k in each}
        raise InputError(
            f"{what} need {_listed({k: n * count for k, n in each.items()})}, {_listed(each)} each "
            f"on one node; the cluster has {_listed({k: there.get(k, 0.0) for k in each})}, "
            f"{_listed(used)} in use, room for {places(each)} of them; add nodes, ask for less, or "
            "wait longer with --wait"
        )
    finally:
        remove_placement_group(room)


def places(each: Mapping[str, float]) -> int:
    """How often these resources fit on the nodes that are alive, whatever is in use there."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(node.get(k, 0.0) / n) for k, n in each.items() if n) for node in nodes)


def smallest_store() -> float:
    """Bytes of the smallest object store among the nodes that are alive."""
    nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return min(node["object_store_memory"] for node in nodes if "object_store_memory" in node)


def require_seen(place: str) -> None:
    """InputError where some node that works does not see a place, or nobody can write there."""
    marker = Marker(place)
    marker.write()
    look = ray.remote(num_cpus=0)(_sees)
    try:
        found = {
            node["NodeManagerAddress"]: look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(marker)
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }
        blind = [address for address, seen in found.items() if not ray.get(seen)]
    finally:
        marker.remove()
    if blind:
        raise InputError(
            f"not every node sees {place} ({', '.join(blind)} does not); give a path that all "
            "nodes share, or a URL such as s3://bucket/run"
        )


def _sees(marker: Marker) -> bool:
    return marker.seen()


def on_this_node(what: type) -> Any:  # noqa: ANN401 - an actor's handle
    """An actor beside the driver, which lives as long as it does and takes no CPU."""
    return ray.remote(num_cpus=0, scheduling_strategy=this_node())(what).remote()


def this_node() -> NodeAffinitySchedulingStrategy:
    """Tasks and actors with it run on the driver's machine, or not at all."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _instead_of_one_that_is_gone(address: str | None) -> str | None:
    """The same, or "local" where the cluster that this machine had is gone.

    Ray would ask for it for minutes. InputError: another machine's does not answer, or one is
    wanted that runs already ("auto").
    """
    from ray._private.utils import read_ray_address  # there is no public name

    noted = read_ray_address()
    if not noted:
        return address
    try:
        _require_listener(noted)
    except InputError:
        if address or not _is_here(noted):
            raise
        log.warning("the Ray cluster that ran here, at %s, is gone: another is started", noted)
        return "local"
    return address


def _is_here(address: str) -> bool:
    """Whether an address is this machine's: nobody can bind another's."""
    with socket.socket() as mine:
        try:
            mine.bind((address.rpartition(":")[0], 0))
        except OSError:
            return False
    return True


def _require_listener(address: str) -> None:
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = place.hostname or "", place.port or 6379
        socket.create_connection((host, port), REACHED_SECONDS).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, "
            "or give the address that it printed"
        ) from error


def _refused(address: str | None, error: BaseException) -> str:
    reason = " ".join(str(error).split())[:200]
    if _is_about_tokens(error):
        return (
            f"the Ray cluster at {address} refuses this token, or asks for one; copy it from the "
            "head node (`ray get-auth-token`) into RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
        )
    return f"cannot join a Ray cluster at {address or 'this machine'}: {reason}; see `ray status`"


def _is_about_tokens(error: BaseException | None) -> bool:
    """Whether it, or what caused it, is a refusal of the token."""
    while error is not None:
        if isinstance(error, AuthenticationError) or "InvalidAuthToken" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def last_line(error: BaseException) -> str:
    """An error's last line with words: what comes before is where it was raised, elsewhere."""
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w", line)]
    return lines[-1][:300] if lines else type(error).__name__


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
