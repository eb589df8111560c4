"""A process group whose workers reach each other by the addresses that Ray knows nodes by.

Gloo takes the address that a host's own name stands for, and on many machines that is the
loopback: fine on one machine, and "connection refused" over several.
    TorchTrainer(..., torch_config=Reachable(backend="gloo", timeout_s=600))
"""

from __future__ import annotations

import os
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

VARIABLE = "GLOO_SOCKET_IFNAME"


class Reachable(TorchConfig):
    """torch's process group, set up after each worker has named its network interface."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train calls on its worker groups."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]  # Ray's is untyped
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:  # noqa: ANN401
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)


def name_interface() -> None:
    """Tell Gloo this node's interface, unless the user has."""
    import ray

    found = interface_of(ray.util.get_node_ip_address())
    if found:
        os.environ.setdefault(VARIABLE, found)


def interface_of(address: str) -> str | None:
    """The name of the interface that has an IP address here; None where none has it."""
    import psutil

    for name, given in psutil.net_if_addrs().items():
        if any(one.address == address for one in given):
            return str(name)
    return None
