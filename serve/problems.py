"""Errors as RFC 9457 problem details: what was wrong and what to do, and nothing of ours or others.

raise Problem(429, "too many requests", retry_after=3)
"""

from __future__ import annotations

import json
import logging
import traceback
from http import HTTPStatus
from typing import Any

from cllm.where import NoSuchPlace

log = logging.getLogger("cllm.serve")

AWAY = {  # errors, by name, that mean that a part is not there; Ray's and ours
    "RayActorError", "ActorUnavailableError", "DeploymentUnavailableError", "BackPressureError",
    "ReplicaUnavailableError", "RpcError", "NoAnswer",
}  # fmt: skip
INSIDE = "the service failed; its log says more beside the request id"


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, and how to say who one is."""
        found = {"Content-Type": "application/problem+json"}
        if self.retry_after is not None:
            found["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.status == HTTPStatus.UNAUTHORIZED:
            found["WWW-Authenticate"] = "Bearer"
        return found

    def messages(self, request_id: str = "") -> list[dict[str, Any]]:
        """The whole answer, as an ASGI app sends it."""
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        body = json.dumps(self.told(request_id)).encode()
        return [
            {"type": "http.response.start", "status": self.status, "headers": headers},
            {"type": "http.response.body", "body": body},
        ]

    def told(self, request_id: str = "") -> dict[str, Any]:
        """The problem's fields."""
        title = HTTPStatus(self.status).phrase
        fields = {"type": "about:blank", "title": title, "status": self.status,
                  "detail": self.detail}  # fmt: skip
        return fields | ({"request_id": request_id} if request_id else {})


def require(most: int, count: int, what: str) -> None:
    """Problem where more is asked for than is allowed."""
    if count > most:
        raise Problem(422, f"{count} {what} were asked for; {most} at most")


def problem_of(error: BaseException, request_id: str = "") -> Problem:
    """What is told of an error: what the request can mend, that a part is away, or nothing.

    Errors of ours name folders and addresses, which callers do not need to know: those are logged.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, NoSuchPlace):
        cause = getattr(error, "cause", error)  # Ray wraps what a deployment raises
        return Problem(422, str(cause).strip().splitlines()[0][:500])
    lines = traceback.format_exception(error)
    log.error(json.dumps({"request_id": request_id, "failed": "".join(lines)}))
    if AWAY & {kind.__name__ for kind in type(error).__mro__}:
        return Problem(503, "a part of the service does not answer; come back", 5)
    return Problem(500, INSIDE)
