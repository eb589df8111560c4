"""Which replica of a part gets a call: of equally busy ones always the same, whose caches are warm.

serve.deployment(Model, request_router_config=RequestRouterConfig(request_router_class=Steady))
"""

from __future__ import annotations

import random

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

COMPARED = 4  # replicas, drawn where there are more: each may have to be asked how busy it is


class Steady(FIFOMixin, RequestRouter):  # type: ignore[misc]  # Ray tells no types
    """The least busy of a few replicas; where they are alike, the first by name."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,  # noqa: ARG002 - Serve hands it over
    ) -> list[list[RunningReplica]]:
        """One rank of replicas, of which Serve takes the first of the least busy."""
        few = random.sample(candidate_replicas, min(COMPARED, len(candidate_replicas)))
        return [sorted(few, key=lambda one: str(one.replica_id.unique_id))]
