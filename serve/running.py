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
from ray.serve.schema import ApplicationStatus, DeploymentStatus

from cllm.errors import InputError, WorkError
from cluster.joining import last_line
from serve.settings import ENDS, ServeSettings

APP = "cllm"
PARTS = ("api", "model", "index", "store")
BUILDER = "serve.app:build"
SECONDS = 300  # until a run is loaded everywhere, or all that was accepted is answered
FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
LOGGING = {"encoding": "JSON", "enable_access_log": False}  # each request has a line of ours
KEEP_ALIVE = 15  # seconds that a connection may idle


@dataclass(frozen=True)
class Told:
    """What runs on a cluster's Serve."""

    address: tuple[str, int] | None  # at which it answers; None where it was not started
    applications: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether ours is there."""
        return APP in self.applications

    @property
    def others(self) -> list[str]:
        """Applications that are not ours."""
        return [name for name in self.applications if name != APP]


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
        there = service.told()
        if others := there.others:
            raise InputError(f"{', '.join(others)} run on that cluster; ours would end them")
        if there.runs:
            raise InputError(
                f"a service runs on that cluster already; `cllm serve --reload --dashboard "
                f"{service.dashboard}` has it serve another run"
            )
        if not there.address:
            _require_free(host, port)
        elif there.address != (host, port):
            its_host, its_port = there.address
            raise InputError(
                f"Serve answers on that cluster at {its_host}:{its_port} and at one place only; "
                f"give --host {its_host} --port {its_port}, or end it with `serve shutdown`"
            )
        run = settings.run or ""
        application = {
            "name": APP, "route_prefix": "/", "import_path": BUILDER,
            "args": settings.model_dump(mode="json", exclude_none=True, exclude={"run"}),
            "deployments": _serving(run, models=1),
        }  # fmt: skip
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE},
            "logging_config": LOGGING,
            "applications": [application],
        }
        try:
            service.client.deploy_applications(config)
        except RuntimeError as error:
            raise WorkError(
                f"Ray Serve did not start ({last_line(error)}); on a busy machine it may in a "
                "second try"
            ) from error
        try:
            service.wait({"run": run})  # with one model, so that it answers soon
            if settings.models > 1:
                application["deployments"] = _serving(run)
                service.client.deploy_applications(config)
            yield service
            service.end()
        finally:
            serve.delete(APP)
            if not (there.address or service.told().others):
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
        if not service.told().runs:
            raise InputError(
                f"no service runs at {dashboard}; name the --dashboard that `cllm serve` told, or "
                "start one"
            )
        return service

    def reload(self, run: str) -> None:
        """Serve another run, once it is loaded."""
        self._deploy(_serving(run))
        self.wait({"run": run})

    def end(self) -> None:
        """Accept no more requests, and wait until those that were accepted are answered."""
        told = _asked_of_api(self._application)
        if not told:  # somebody has ended it
            return
        parts = _serving(told["run"])
        ending = next(part for part in parts if part["name"] == "api")["user_config"]
        ending[ENDS] = "yes"
        self._deploy(parts)
        self.wait(ending)

    def _deploy(self, parts: list[dict[str, Any]]) -> None:
        """The same application, with other things told to its parts."""
        application = self._application["deployed_app_config"] | {"deployments": parts}
        config = {"logging_config": LOGGING, "applications": [application]}
        self.client.deploy_applications(config)

    @property
    def _application(self) -> dict[str, Any]:
        """What Serve says of ours; nothing where it is not there."""
        found: dict[str, Any] = self.client.get_serve_details()["applications"].get(APP, {})
        return found

    def told(self) -> Told:
        """What Serve says of itself."""
        details = self.client.get_serve_details()
        options = details.get("http_options")
        address = (options["host"], options["port"]) if options else None
        return Told(address, tuple(sorted(details.get("applications", {}))))

    def wait(self, asked: dict[str, str]) -> None:
        """Until the API does what it was asked; it waits for a model, an index and a store itself.

        WorkError: it could not, or takes too long.
        """
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            found = self._application
            api = found.get("deployments", {}).get("api", {}).get("status")
            if api == DeploymentStatus.HEALTHY and _asked_of_api(found) == asked:
                return
            if found.get("status") in FAILED:
                raise WorkError(f"the service did not start: {_reason(found)}")
            time.sleep(0.2)
        raise WorkError(f"the service was not there after {SECONDS} s; see `ray status`")


def _serving(run: str, models: int | None = None) -> list[dict[str, Any]]:
    """What tells every part which run to load; `models`: other than the settings say."""
    parts: list[dict[str, Any]] = [{"name": name, "user_config": {"run": run}} for name in PARTS]
    if models:
        next(part for part in parts if part["name"] == "model")["num_replicas"] = models
    return parts


def _asked_of_api(found: dict[str, Any]) -> dict[str, str]:
    """What the API was told last."""
    config = found.get("deployments", {}).get("api", {}).get("deployment_config", {})
    return dict(config.get("user_config") or {})


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
