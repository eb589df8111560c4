"""Start the service over a cluster that was joined, end it, and have it go over to another run.

Deployed as `serve deploy` does it, by Serve's configuration. The run is the `user_config` of one
deployment and no argument: a change of it starts no replica anew.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray._private.worker import get_dashboard_url  # which has no public name
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from ray.exceptions import AuthenticationError
from ray.serve.schema import ApplicationStatus

from cllm.errors import InputError, WorkError
from cluster.joining import last_line
from serve.settings import ServeSettings

APP = "cllm"
PARTS = ("api", "model", "index", "store")
BUILDER = "serve.app:build"
SECONDS = 120  # until a run is loaded everywhere
KEEP_ALIVE = 15  # seconds that a connection may idle


@dataclass(frozen=True)
class Service:
    """A service of a Ray cluster, by its dashboard."""

    dashboard: str
    client: ServeSubmissionClient

    @classmethod
    @contextmanager
    def started(cls, settings: ServeSettings, host: str, port: int) -> Iterator[Service]:
        """Deployed, and ended at the end. InputError: the port is taken, or Serve has another."""
        service = cls.at(f"http://{get_dashboard_url()}")
        if others := service.others:
            raise InputError(f"{', '.join(others)} run on that cluster; ours would end them")
        if service.runs:
            raise InputError(
                f"a service runs on that cluster already; `cllm serve --reload --dashboard "
                f"{service.dashboard}` has it serve another run"
            )
        there = service.address  # where Serve answers that was there before
        if not there:
            _require_free(host, port)
        elif there != (host, port):
            raise InputError(
                f"Serve answers on that cluster at {there[0]}:{there[1]} and at one place only; "
                f"give --host {there[0]} --port {there[1]}, or end it with `serve shutdown`"
            )
        run = settings.run or ""
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE},
            "logging_config": {"encoding": "JSON", "enable_access_log": False},
            "applications": [{
                "name": APP, "route_prefix": "/", "import_path": BUILDER,
                "args": settings.model_dump(mode="json", exclude_none=True, exclude={"run"}),
                "deployments": _serving(run),
            }],
        }  # fmt: skip
        service.client.deploy_applications(config)
        try:
            service.wait(run)
            yield service
        finally:
            serve.delete(APP)  # replicas end what they have accepted
            if not (there or service.others):
                serve.shutdown()

    @classmethod
    def at(cls, dashboard: str) -> Service:
        """Of the cluster with that dashboard; InputError where none answers."""
        try:
            return cls(dashboard, ServeSubmissionClient(dashboard))
        except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
            raise InputError(
                f"no Ray dashboard answers at {dashboard} ({last_line(error)}); name the one that "
                "`cllm serve` told"
            ) from error

    @classmethod
    def running(cls, dashboard: str) -> Service:
        """One that runs there; InputError where none does."""
        service = cls.at(dashboard)
        if not service.runs:
            raise InputError(f"no service runs at {dashboard}; start one with `cllm serve`")
        return service

    def reload(self, run: str) -> None:
        """Serve another run, once it is loaded."""
        application = self.client.get_serve_details()["applications"][APP]["deployed_app_config"]
        application["deployments"] = _serving(run)
        self.client.deploy_applications({"applications": [application]})
        self.wait(run)

    @property
    def runs(self) -> bool:
        """Whether ours is there."""
        return APP in self.client.get_serve_details().get("applications", {})

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port at which Serve answers; None where it was not started."""
        options = self.client.get_serve_details().get("http_options")
        return (options["host"], options["port"]) if options else None

    @property
    def others(self) -> list[str]:
        """Other applications of that cluster."""
        found = self.client.get_serve_details().get("applications", {})
        return sorted(name for name in found if name != APP)

    def wait(self, run: str) -> None:
        """Until a run is served. WorkError: it could not be, or takes too long."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            told = self.client.get_serve_details()["applications"].get(APP, {})
            status = told.get("status")
            if status == ApplicationStatus.RUNNING and _served(told) == run:
                return
            if status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise WorkError(f"the service did not start: {_reason(told)}")
            time.sleep(0.2)
        raise WorkError(f"the service was not there after {SECONDS} s; see `ray status`")


def _serving(run: str) -> list[dict[str, Any]]:
    """What tells every part which run to load."""
    return [{"name": name, "user_config": {"run": run}} for name in PARTS]


def _served(told: dict[str, Any]) -> str | None:
    config = told.get("deployments", {}).get("api", {}).get("deployment_config", {})
    run: str | None = (config.get("user_config") or {}).get("run")
    return run


def _reason(told: dict[str, Any]) -> str:
    messages = [told.get("message", ""), *(
        one.get("message", "") for one in told.get("deployments", {}).values()
    )]  # fmt: skip
    lines = [line.strip() for words in messages for line in words.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason is known"


def _require_free(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be had ({error.strerror}); name another --port"
        ) from error
