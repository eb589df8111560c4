"""Join a Ray cluster, or say in one line why not.

    with joined(options.address):
        require({"CPU": 4}, "2 workers of 2 CPUs each", seconds=30)

Without an address: that of a job (RAY_ADDRESS), else a cluster of this machine alone.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError, RayError

from cllm.errors import InputError

log = logging.getLogger(__name__)

REACHED_SECONDS = 5.0
LOOK_SECONDS = 1.0  # between looks for resources


@contextmanager
def joined(address: str | None = None) -> Iterator[None]:
    """A connection to the cluster, closed at the end. InputError: nobody is there, or no token."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        _require_listener(address)
    try:
        ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, RayError) as error:
        raise InputError(_refused(address, error)) from error
    _quietly()
    try:
        yield
    finally:
        ray.shutdown()


def _quietly() -> None:
    """Leave progress to our own lines."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    DataContext.get_current().enable_progress_bars = False


def require(wanted: Mapping[str, float], what: str, seconds: float) -> None:
    """Wait until the cluster has these resources, asking an autoscaler for them.

    InputError after that many seconds: says what is missing.
    """
    begun = time.monotonic()
    asked = False
    while True:
        there = ray.cluster_resources()
        missing = {k: n - there.get(k, 0.0) for k, n in wanted.items() if n > there.get(k, 0.0)}
        if not missing:
            return
        if not asked:
            _ask_autoscaler(wanted)
            log.info("waiting %.0f s for %s: %s missing", seconds, what, _listed(missing))
            asked = True
        if time.monotonic() - begun > seconds:
            raise InputError(
                f"{what} need {_listed(wanted)}; the cluster has "
                f"{_listed({k: there.get(k, 0.0) for k in wanted})}; add nodes, ask for fewer "
                "workers, or wait longer with --wait"
            )
        time.sleep(LOOK_SECONDS)


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


def _ask_autoscaler(wanted: Mapping[str, float]) -> None:
    from ray.autoscaler.sdk import request_resources

    bundles = [{"GPU": 1.0}] * int(wanted.get("GPU", 0))
    request_resources(num_cpus=int(wanted.get("CPU", 0)), bundles=bundles)


def _listed(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
