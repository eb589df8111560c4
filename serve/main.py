"""`cllm serve`: the endpoint and the page of a run, on this machine or on a cluster.

cllm serve --port 8000                 # the default run, else the shipped one; loopback only
cllm serve --add-key alice             # prints a key once; needed to bind wider
cllm serve --reload --run runs/new     # what is served goes over to it; no request is dropped
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cllm.console import emit, one_line_errors, set_up_logging
from cllm.errors import InputError
from serve.settings import Limits, ServeSettings

log = logging.getLogger(__name__)

APP = "cllm"
KEYS = Path("~/.config/cllm/keys.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to stop; or add a key, or have a service go over to another run."""
    options = parser().parse_args(arguments)
    set_up_logging()
    log.setLevel(logging.INFO)
    with one_line_errors():
        if options.add_key:
            _add_key(options)
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
    p.add_argument("--keys", type=Path, help=f"file of API keys [default: {KEYS}, if wanted]")
    p.add_argument("--add-key", metavar="NAME", help="make a key, print it, keep its hash")
    p.add_argument("--reload", action="store_true", help="have the running service serve --run")
    p.add_argument("--models", type=int, default=1, help="replicas that encode and decode")
    p.add_argument("--gpu", action="store_true", help="one for each of them")
    p.add_argument("--per-minute", type=int, default=Limits().per_minute, help="requests of a key")
    p.add_argument("--in-flight", type=int, default=Limits().in_flight)
    p.add_argument("--address", help="of a Ray cluster; else one is started here")
    p.add_argument("--json", action="store_true", help="one JSON object on stdout")
    p.add_argument("--seed", type=int, default=0, help="nothing is drawn here; requests have seeds")
    return p


def settings_of(options: argparse.Namespace) -> ServeSettings:
    """InputError where it would be open to everybody."""
    keys = options.keys or (KEYS.expanduser() if not is_loopback(options.host) else None)
    if not is_loopback(options.host) and not keys.exists():
        raise InputError(
            f"--host {options.host} can be reached from elsewhere, so callers need keys; make one "
            "with `cllm serve --add-key NAME`, or leave --host out"
        )
    return ServeSettings(
        run=options.run, milvus=options.milvus, keys=keys, models=options.models,
        model_gpus=1 if options.gpu else 0,
        limits=Limits(per_minute=options.per_minute, in_flight=options.in_flight),
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _add_key(options: argparse.Namespace) -> None:
    from serve.keys import add

    path = options.keys or KEYS.expanduser()
    key = add(path, options.add_key)
    log.info("kept as a hash in %s; it is not shown again", path)
    emit({"name": options.add_key, "key": key}, options.json, lambda: print(key))


def _serve(options: argparse.Namespace) -> None:
    from ray import serve

    from serve.app import build

    settings = settings_of(options)
    app = build(settings)
    _start(options)
    try:
        serve.run(app, name=APP, route_prefix="/")
        told = {"url": f"http://{options.host}:{options.port}", "run": str(settings.run or "")}
        emit(told, options.json, lambda: print(f"{told['url']}  (Ctrl-C ends it)", flush=True))
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        log.info("ending; requests that were accepted are still answered")
    finally:
        serve.shutdown()


def _start(options: argparse.Namespace) -> None:
    import ray
    from ray import serve

    from cluster.joining import join

    join(options.address)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": options.host, "port": options.port, "keep_alive_timeout_s": 10},
        logging_config={"encoding": "JSON", "enable_access_log": False},
    )
    del ray


def _reload(options: argparse.Namespace) -> None:
    raise NotImplementedError
