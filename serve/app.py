"""The service, put together: `build` makes a Ray Serve application of settings.

serve run serve.app:build run=runs/demo
serve deploy serve/config.yaml
"""

# no postponed annotations: Serve reads that of `build` to check the arguments of `serve run`

import logging
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from cllm.console import set_up_logging
from cllm.store import NoAnswer
from serve.api import make_app
from serve.deployments import WAITING, Index, Model, Store
from serve.guard import Guard
from serve.hands import Hands
from serve.keys import KeyFile
from serve.metrics import Counts
from serve.routing import Steady
from serve.runs import named
from serve.settings import ENDS, ServeSettings

log = logging.getLogger("cllm.serve")
WAITS = 0  # cores of what mostly waits for others


@serve.ingress()
class Api:
    """Answers requests; goes over to another run when its user_config names one."""

    def __init__(self, settings: ServeSettings, model: Any, index: Any, store: Any) -> None:  # noqa: ANN401
        set_up_logging()
        self.settings, self.handles = settings, (model, index, store)
        self.hands: Hands | None = None
        self.guard: Guard | None = None

    async def reconfigure(self, config: dict[str, str]) -> None:
        """Load the run everywhere, then serve it: requests in work end with the one before.

        Or, where the service ends: accept no more, and answer those.
        """
        if ENDS in config:
            if self.guard:
                await self.guard.end()
            return
        hands = Hands(*self.handles, named(config["run"]))
        try:
            await hands.ready()
        except NoAnswer:
            log.warning("the store does not answer: texts come without their neighbours")
        self.hands = hands

    def __serve_build_asgi_app__(self) -> Guard:
        """The app behind its guard."""
        keys = KeyFile(self.settings.keys) if self.settings.keys else None
        counts, limits = Counts(), self.settings.limits
        app = make_app(self._now, limits, counts)
        self.guard = Guard(app, limits, keys, counts, proxied=True)
        return self.guard

    def _now(self) -> Hands:
        if self.hands is None:
            raise RuntimeError("no run was loaded")
        return self.hands


def build(settings: ServeSettings) -> Application:
    """The application; InputError where the run or the keys are no good."""
    s = settings
    run = named(s.run)
    if s.keys:
        KeyFile(s.keys)
    each = {"max_ongoing_requests": WAITING, "graceful_shutdown_timeout_s": s.limits.seconds,
            "user_config": {"run": run}}  # fmt: skip
    model = serve.deployment(
        Model, name="model", num_replicas=s.models, **each,
        ray_actor_options={"num_cpus": s.model_cpus, "num_gpus": s.model_gpus},
        request_router_config=RequestRouterConfig(request_router_class=Steady),
    ).bind(s.batch, max(1, int(s.model_cpus)))  # fmt: skip
    index = serve.deployment(
        Index, name="index", num_replicas=s.places, **each,
        ray_actor_options={"num_cpus": WAITS},
    ).bind()  # fmt: skip
    store = serve.deployment(
        Store, name="store", num_replicas=s.stores, **each, ray_actor_options={"num_cpus": WAITS}
    ).bind(s.milvus)
    api = serve.deployment(
        Api, name="api", num_replicas=s.apis, **each,
        ray_actor_options={"num_cpus": WAITS},
    )  # fmt: skip
    return api.bind(settings, model, index, store)
