"""Errors as RFC 9457 problem details: what was wrong and what to do, and nothing of ours or others.

raise Problem(429, "too many requests", retry_after=3)
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cllm.errors import InputError

log = logging.getLogger("cllm.serve")

SHOWN = 3  # faults of a request that are told
INSIDE = "the service failed; the request id says where in its logs"


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after

    def response(self, request_id: str = "") -> Response:
        """As `application/problem+json`."""
        headers = {} if self.retry_after is None else {"Retry-After": str(seconds(self))}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(
            json.dumps(self.told(request_id)), self.status, headers, "application/problem+json"
        )

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


def seconds(problem: Problem) -> int:
    """Whole seconds to wait, one at least."""
    return max(1, round(problem.retry_after or 0))


def problem_of(error: BaseException) -> Problem:
    """What is told of an error; what we did not foresee is told as nothing but that."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputError):
        return Problem(422, _first_line(error))
    log.exception("unforeseen", exc_info=error)
    return Problem(500, INSIDE)


def _first_line(error: InputError) -> str:
    cause = getattr(error, "cause", error)  # Ray wraps what a deployment raises
    return str(cause).strip().splitlines()[0][:500]


def answer_with_problems(app: FastAPI) -> None:
    """Have every error of an app told so."""

    def told(request: Request, problem: Problem) -> Response:
        return problem.response(request.scope.get("state", {}).get("request_id", ""))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [
            f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg']}"
            for fault in error.errors()[:SHOWN]
        ]
        return told(request, Problem(422, "; ".join(faults)[:500]))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return told(request, Problem(error.status_code, HTTPStatus(error.status_code).description
                                     or HTTPStatus(error.status_code).phrase))  # fmt: skip

    @app.exception_handler(InputError)
    @app.exception_handler(Problem)
    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return told(request, problem_of(error))
