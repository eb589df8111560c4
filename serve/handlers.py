"""How the app's framework tells errors: as problem details, like everything else does."""

from __future__ import annotations

import json
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cllm.where import NoSuchPlace
from serve.problems import Problem, problem_of

SHOWN = 3  # faults of a request that are told


def answer_with_problems(app: FastAPI) -> None:
    """Have every error of an app told so."""

    def told(request: Request, problem: Problem) -> Response:
        words = json.dumps(problem.told(_id_of(request)))
        return Response(words, problem.status, problem.headers)

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

    @app.exception_handler(NoSuchPlace)
    @app.exception_handler(Problem)
    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return told(request, problem_of(error, _id_of(request)))


def _id_of(request: Request) -> str:
    return str(request.scope.get("state", {}).get("request_id", ""))
