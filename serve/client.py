"""A typed client of the endpoint, with nothing but the standard library and the schemas.

client = Client("http://127.0.0.1:8000", key=None)
for item in client.generate(Generate(n=3, topic="soup")): print(item.text)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from pydantic import BaseModel, TypeAdapter

from cllm.errors import InputError, WorkError
from serve import schemas as s

M = TypeVar("M", bound=BaseModel)


class Refused(WorkError):
    """The service answered with a problem."""

    def __init__(self, status: int, detail: str, retry_after: float | None) -> None:
        super().__init__(f"the service says {status}: {detail}")
        self.status, self.detail, self.retry_after = status, detail, retry_after


@dataclass(frozen=True)
class Client:
    """Calls of one service. Refused: it says no; InputError: nobody answers there."""

    url: str
    key: str | None = None
    seconds: float = 150  # to wait for an answer, or for its next line

    def generate(self, asked: s.Generate) -> Iterator[s.Item | s.End]:
        """Texts as they are found; the end comes last."""
        body = asked.model_copy(update={"stream": True})
        with self._answer("/v1/generate", body.model_dump(exclude_none=True)) as answer:
            for told in _told(answer):
                if "error" in told:
                    raise Refused(told["error"]["status"], told["error"]["detail"], None)
                if "end" in told:
                    yield s.End.model_validate(told["end"])
                    return
                yield s.Item.model_validate(told["item"])
        raise WorkError(f"the answer of {self.url} broke off; ask again")

    def encode(self, texts: list[str]) -> list[list[float]]:
        """A unit vector for each text."""
        return self._posted("/v1/encode", s.Texts(texts=texts), s.Encoded).vectors

    def decode(self, vectors: list[list[float]]) -> list[str]:
        """A text for each vector, or prefix of one."""
        return self._posted("/v1/decode", s.Vectors(vectors=vectors), s.Decoded).texts

    def interpolate(self, first: str, last: str, steps: int = 5) -> list[s.Step]:
        """Texts on the way from one to another."""
        asked = s.Interpolate(first=first, last=last, steps=steps)
        return self._posted("/v1/interpolate", asked, s.Interpolated).items

    def neighbours(self, texts: list[str], k: int = 5) -> list[list[s.Neighbour]]:
        """The nearest known texts of each."""
        return self._posted("/v1/neighbours", s.Neighbours(texts=texts, k=k), s.Found).neighbours

    def search(self, query: str, k: int = 10) -> list[s.Neighbour]:
        """Known texts that have all words of a query."""
        found = self._got(f"/v1/texts?{urlencode({'query': query, 'k': k})}")
        return TypeAdapter(list[s.Neighbour]).validate_python(found)

    def model(self) -> s.Run:
        """What is served, and what may be asked of it."""
        return s.Run.model_validate(self._got("/v1/model"))

    def voids(self) -> s.Voids:
        """The voids that stand."""
        return s.Voids.model_validate(self._got("/v1/voids"))

    def map(self, points: int = 5000) -> s.Map:
        """Where known texts lie, pressed flat."""
        return s.Map.model_validate(self._got(f"/v1/map?points={points}"))

    def ready(self) -> bool:
        """Whether the run is loaded; its store may be away."""
        try:
            return bool(self._got("/v1/ready")["ready"])
        except (Refused, InputError):
            return False

    def _posted(self, path: str, body: BaseModel, kind: type[M]) -> M:
        with self._answer(path, body.model_dump(exclude_none=True)) as answer:
            return kind.model_validate_json(answer.read())

    def _got(self, path: str) -> Any:  # noqa: ANN401 - JSON
        with self._answer(path, None) as answer:
            return json.loads(answer.read())

    @contextmanager
    def _answer(self, path: str, body: Any) -> Iterator[HTTPResponse]:  # noqa: ANN401 - JSON
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"{self.url!r} is no address of a service; write http://host:port")
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url.rstrip("/") + path, data, headers)
        if self.key:  # which no redirect takes elsewhere
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            with urlopen(request, timeout=self.seconds) as answer:
                yield answer
        except HTTPError as error:
            with error:
                raise _refused(error) from None
        except (URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(
                f"no service answers at {self.url} ({reason}); start one with `cllm serve`"
            ) from error


def _told(answer: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The lines of a stream, as far as it came."""
    try:
        for line in answer:
            yield json.loads(line)
    except (HTTPException, OSError, ValueError):
        return


def _refused(error: HTTPError) -> Refused:
    try:
        detail = str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError):
        detail = error.reason
    wait = error.headers.get("Retry-After", "")
    return Refused(error.code, detail, float(wait) if wait.isdigit() else None)
