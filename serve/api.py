"""The HTTP API: what is asked is checked, worked on by the deployments, and told as JSON.

Paths and shapes are those of the design; `/openapi.json` has them all, with examples.
"""

# Shapes: n vectors or texts, D coordinates.
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Query, Request
from fastapi.security import HTTPBearer
from numpy.typing import NDArray
from starlette.responses import FileResponse, Response, StreamingResponse

from cllm import __version__
from cllm.sphere import slerp
from cllm.store import NoAnswer
from serve import schemas as s
from serve.catalogue import Near
from serve.generation import Hands, generated, neighbour
from serve.handlers import answer_with_problems
from serve.metrics import Counts
from serve.problems import Problem, problem_of, require
from serve.settings import Limits

PAGE = Path(__file__).parent / "page"
FILES = ("page.js", "page.css")
NDJSON = "application/x-ndjson"
PROBLEM = {"application/problem+json": {"schema": s.ProblemDetails.model_json_schema()}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": PROBLEM}
    for status, words in {
        401: "no key, or a wrong one", 403: "from elsewhere, where there are no keys",
        408: "the body did not come in time", 413: "too large", 422: "not what is asked for",
        429: "too often; Retry-After says when", 500: "the service failed",
        503: "busy, or a part is away; Retry-After says when",
    }.items()
}  # fmt: skip
K = Annotated[int, Query(ge=1, description="texts at most")]


def make_app(now: Callable[[], Hands], limits: Limits, counts: Counts) -> FastAPI:
    """The app; `now()` are the hands of the run that is served at that moment."""
    app = FastAPI(
        title="cllm", version=__version__, docs_url=None, redoc_url=None,
        description="New texts from the empty places of a text space.",
        dependencies=[Depends(HTTPBearer(auto_error=False, description="where keys are"))],
    )  # fmt: skip
    answer_with_problems(app)
    _add_generate(app, now, limits, counts)
    _add_vectors(app, now, limits)
    _add_run(app, now, limits)
    _add_page(app)
    return app


def _add_generate(app: FastAPI, now: Callable[[], Hands], limits: Limits, counts: Counts) -> None:
    @app.post("/v1/generate", response_model=s.Generated, responses=RESPONSES | {
        200: {"description": "all texts; or, where `stream` is on, one line for each",
              "content": {NDJSON: {}}}})  # fmt: skip
    async def generate(body: s.Generate, request: Request) -> Any:  # noqa: ANN401
        """New texts from places in voids, or from where they are asked for."""
        lines = generated(now(), body, limits, counts.text)
        first = await anext(lines)  # what cannot be answered is told before an answer begins
        if body.stream:
            told = _told(_again(first, lines), request.scope["state"]["request_id"])
            return StreamingResponse(told, media_type=NDJSON)
        *items, end = [first, *[line async for line in lines]]
        whole = s.Generated(items=items, end=end)  # type: ignore[arg-type]
        return Response(whole.model_dump_json(), media_type="application/json")


def _add_vectors(app: FastAPI, now: Callable[[], Hands], limits: Limits) -> None:
    @app.post("/v1/encode", responses=RESPONSES)
    async def encode(body: s.Texts) -> s.Encoded:
        """A unit vector for each text."""
        _require_texts(limits, body.texts)
        return s.Encoded(vectors=(await now().encode(body.texts)).tolist())

    @app.post("/v1/decode", responses=RESPONSES)
    async def decode(body: s.Vectors) -> s.Decoded:
        """A text for each vector, or prefix of one."""
        require(limits.texts, len(body.vectors), "vectors")
        hands = now()
        return s.Decoded(texts=await hands.decode(_lifted(body.vectors, hands.dim)))

    @app.post("/v1/interpolate", responses=RESPONSES)
    async def interpolate(body: s.Interpolate) -> s.Interpolated:
        """Texts along the great circle between two texts."""
        require(limits.texts, body.steps, "steps")
        _require_texts(limits, [body.first, body.last])
        hands, share_n = now(), np.linspace(0, 1, body.steps)
        first_D, last_D = await hands.encode([body.first, body.last])
        texts = await hands.decode(slerp(first_D[None], last_D[None], share_n))
        return s.Interpolated(
            items=[s.Step(at=at, text=text) for at, text in zip(share_n, texts, strict=True)]
        )

    @app.post("/v1/neighbours", responses=RESPONSES)
    async def neighbours(body: s.Neighbours) -> s.Found:
        """The nearest known texts of texts or vectors."""
        require(limits.neighbours, body.k, "neighbours")
        hands = now()
        if body.texts is not None:
            _require_texts(limits, body.texts)
            vectors_nD = await hands.encode(body.texts)
        else:
            require(limits.texts, len(body.vectors or ()), "vectors")
            vectors_nD = _lifted(body.vectors or [], hands.dim)
        found = await _nearest(hands, vectors_nD, body.k)
        return s.Found(neighbours=[[neighbour(near) for near in some] for some in found])


def _add_run(app: FastAPI, now: Callable[[], Hands], limits: Limits) -> None:
    @app.get("/v1/model", responses=RESPONSES)
    async def model() -> s.Run:
        """What is served, and what may be asked of it."""
        return s.Run(**await now().about("facts"), limits=limits)

    @app.get("/v1/voids", responses=RESPONSES)
    async def voids() -> s.Voids:
        """The voids that stand, emptiest first, with the texts around each."""
        return s.Voids(**await now().about("void_list"))

    @app.get("/v1/map", responses=RESPONSES)
    async def map_(points: K = 5000) -> s.Map:
        """Where known texts lie, pressed flat."""
        require(limits.points, points, "points")
        return s.Map(**await now().about("map", points))

    @app.get("/v1/texts", responses=RESPONSES)
    async def texts(
        query: Annotated[str, Query(min_length=1, max_length=200)], k: K = 10
    ) -> list[s.Neighbour]:
        """Known texts that have all words of a query."""
        require(limits.texts, k, "texts")
        return [neighbour(near) for near in await now().about("found", query, k)]

    @app.get("/v1/texts/{row}", responses=RESPONSES)
    async def text(row: int) -> s.Neighbour:
        """The text of a row of the map."""
        found = await now().about("at", row) if row < 2**62 else None
        if found is None:
            raise Problem(404, "there is no such text")
        return neighbour(found)

    looking: list[asyncio.Task[s.Ready]] = []  # at most one: anybody may ask, as often as they like

    @app.get("/v1/ready", responses=RESPONSES)
    async def ready() -> s.Ready:
        """Whether the run is loaded; the store may be away, which costs neighbours alone."""
        if not looking:
            looking.append(asyncio.create_task(_looked(now())))
            looking[0].add_done_callback(lambda _: looking.clear())
        return await asyncio.shield(looking[0])


async def _looked(hands: Hands) -> s.Ready:
    try:
        await hands.ready()
    except NoAnswer:
        return s.Ready(store=False)
    except Exception:
        raise Problem(503, "not everything is there yet", 2) from None
    return s.Ready()


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in FILES:
            raise Problem(404, "there is nothing here")
        return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})


async def _again(
    first: s.Item | s.End, rest: AsyncIterator[s.Item | s.End]
) -> AsyncIterator[s.Item | s.End]:
    yield first
    async for line in rest:
        yield line


async def _told(lines: AsyncIterator[s.Item | s.End], request_id: str) -> AsyncIterator[bytes]:
    """As lines of JSON; what fails on the way is the last one."""
    try:
        async for line in lines:
            kind = "item" if isinstance(line, s.Item) else "end"
            yield json.dumps({kind: line.model_dump()}).encode() + b"\n"
    except Exception as error:
        yield json.dumps({"error": problem_of(error, request_id).told(request_id)}).encode() + b"\n"


# ---- checks ----------------------------------------------------------------------------


def _require_texts(limits: Limits, texts: Sequence[str]) -> None:
    require(limits.texts, len(texts), "texts")
    for text in texts:
        require(limits.text_characters, len(text), "characters of a text")


def _lifted(rows: list[list[float]], dim: int) -> NDArray[np.float32]:
    """Vectors and prefixes as unit vectors, (n, D)."""
    lifted_nD = np.zeros((len(rows), dim), np.float64)
    for number, row in enumerate(rows):
        if not 2 <= len(row) <= dim:
            raise Problem(422, f"vector {number + 1} has {len(row)} coordinates; give 2 to {dim}")
        lifted_nD[number, : len(row)] = row
    largest_n = np.abs(lifted_nD).max(axis=1)
    if not (largest_n > 0).all():
        raise Problem(422, f"vector {int(largest_n.argmin()) + 1} is zero and has no direction")
    lifted_nD /= largest_n[:, None]  # squares of large numbers would be infinite
    return (lifted_nD / np.linalg.norm(lifted_nD, axis=1, keepdims=True)).astype(np.float32)


async def _nearest(hands: Hands, vectors_nD: NDArray[np.float32], k: int) -> list[list[Near]]:
    try:
        return await hands.nearest(vectors_nD, k)
    except Exception as error:
        problem_of(error)
        raise Problem(503, "the store does not answer", 5) from None
