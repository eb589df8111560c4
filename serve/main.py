"""`cllm serve`: the endpoint and the page of a run, on this machine or on a cluster.

cllm serve                             # the default run, else the shipped one; loopback only
cllm serve --reload --run runs/new     # what is served goes over to it; no request is dropped
cllm serve --add-key alice             # prints a key once; callers from elsewhere need one
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cllm.console import emit, one_line_errors, set_up_logging
from cllm.errors import InputError
from serve.hosts import is_loopback
from serve.settings import Limits, ServeSettings

log = logging.getLogger(__name__)

KEYS = Path("~/.config/cllm/keys.json")
MOST_MODELS = 4  # by default: each takes half a gigabyte
SWITCHES = {  # Serve's own
    # fewer threads to cross, as no part of ours holds its loop
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # calls take less than half the time of actor tasks
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middlewares",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # three times 5 are too few on busy cores
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop; or add a key, or have a service go over to another run."""
    options = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if options.add_key:
            _add_key(options)
        elif options.remove_key:
            _remove_key(options)
        elif options.reload:
            _reload(options)
        else:
            _serve(options)


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="cllm serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--run", type=Path, help="run folder [default: runs/default, else the shipped]")
    p.add_argument("--host", default="127.0.0.1", help="wider than loopback needs keys")
    p.add_argument("--port", type=int, default=8000)
    p.add_argument("--milvus", help="URI of a server that has the run's vectors")
    p.add_argument("--keys", type=Path, help=f"file of API keys [default: {KEYS}, where needed]")
    p.add_argument("--models", type=int, help="replicas that encode and decode [default: one for "
                   f"each core of this machine, up to {MOST_MODELS}; 1 on a cluster]")  # fmt: skip
    p.add_argument("--threads", type=int, default=1, help="of each of them: more of them, each "
                   "with one, do more")  # fmt: skip
    p.add_argument("--gpu", action="store_true", help="one for each of them")
    p.add_argument("--per-minute", type=int, default=Limits().per_minute, help="requests of a key")
    p.add_argument("--in-flight", type=int, default=Limits().in_flight, help="requests at a time")
    p.add_argument("--address", help="of a Ray cluster; else the job's, else this machine's")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--seed", type=int, default=0, help="nothing is drawn; requests have their own")
    other = p.add_argument_group("instead of serving")
    other.add_argument("--reload", action="store_true", help="have the running service serve --run")
    other.add_argument("--dashboard", default="http://127.0.0.1:8265", help="of the service to "
                       "reload, as `cllm serve` told it [default: %(default)s]")  # fmt: skip
    other.add_argument("--add-key", metavar="NAME", help="make a key, print it, keep its hash")
    other.add_argument("--remove-key", metavar="NAME", help="let the key of a name count no more")
    return p


def settings_of(options: argparse.Namespace) -> ServeSettings:
    """InputError where it would be open to everybody, or a number means nothing."""
    from serve.keys import KeyFile
    from serve.runs import named

    for name in ("models", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name} is {value}; it must be 1 or more")
    keys = options.keys
    if not is_loopback(options.host):
        keys = keys or KEYS.expanduser()
        if not keys.exists():
            raise InputError(
                f"--host {options.host} can be reached from elsewhere, so callers need keys; make "
                "one with `cllm serve --add-key NAME`, or leave --host out"
            )
    if keys:
        KeyFile(keys)
    return ServeSettings(
        run=named(options.run), milvus=options.milvus, keys=keys and keys.resolve(),
        models=models_of(options), model_cpus=options.threads, model_gpus=1 if options.gpu else 0,
        limits=Limits(per_minute=options.per_minute, in_flight=options.in_flight),
    )  # fmt: skip


def models_of(options: argparse.Namespace) -> int:
    """How many replicas of the model."""
    if options.models is not None:
        return int(options.models)
    elsewhere = (options.address or os.environ.get("RAY_ADDRESS") or "local") != "local"
    if elsewhere or options.gpu:
        return 1
    from ray._private.utils import get_num_cpus  # as Ray counts them, in containers too

    return max(1, min(int(get_num_cpus()) // options.threads, MOST_MODELS))


def _add_key(options: argparse.Namespace) -> None:
    from serve.keys import add

    path = options.keys or KEYS.expanduser()
    key = add(path, options.add_key)
    log.info("its hash is kept in %s; the key is not shown again", path)
    emit({"name": options.add_key, "key": key}, options.json, lambda: print(key))


def _remove_key(options: argparse.Namespace) -> None:
    from serve.keys import remove

    remove(options.keys or KEYS.expanduser(), options.remove_key)
    told = {"name": options.remove_key}
    emit(told, options.json, lambda: print(f"the key of {options.remove_key} counts no more"))


def _serve(options: argparse.Namespace) -> None:
    for name, value in SWITCHES.items():  # of a cluster that is started here
        os.environ.setdefault(name, value)
    from cllm.store import require_reachable
    from cluster.joining import guarded, joined, metrics_at
    from serve.running import Service

    host = f"[{options.host}]" if ":" in options.host else options.host
    settings, url = settings_of(options), f"http://{host}:{options.port}"
    with ExitStack() as stack:
        stack.enter_context(joined(options.address, for_data=False))
        if not guarded():
            log.warning(
                "this Ray cluster asks for no token: who reaches its ports can run code on it; "
                "close its network, or start it with RAY_AUTH_MODE=token"
            )
        if options.milvus:  # not before: its threads would make the start of Ray's processes abort
            require_reachable(options.milvus)
        service = stack.enter_context(Service.started(settings, options.host, options.port))
        told = {"url": url, "run": settings.run, "dashboard": service.dashboard,
                "metrics": metrics_at()}  # fmt: skip
        words = (
            f"{url}  serves {settings.run}; Ctrl-C ends it. Ray: {service.dashboard}, metrics: "
            f"{told['metrics']}"
        )
        emit(told, options.json, lambda: print(words))
        sys.stdout.flush()
        _until_told()
        log.info("ending: requests that were accepted are still answered")


def _until_told() -> None:
    ended = threading.Event()
    before: dict[int, Any] = {
        number: signal.signal(number, lambda *_: ended.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    while not ended.wait(1):
        pass
    for number, handler in before.items():
        signal.signal(number, handler)


def _reload(options: argparse.Namespace) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # as clusters that `cllm serve` starts have
    from serve.local import LocalHands
    from serve.running import Service
    from serve.runs import named, run_of

    run = named(options.run)
    service = Service.running(options.dashboard)
    LocalHands.load(run_of(run))  # whatever is wrong with it is told here, and not there
    service.reload(run)
    emit({"run": run}, options.json, lambda: print(f"{run} is served"))
