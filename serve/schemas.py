"""What requests and answers look like: JSON both ways, checked by pydantic.

Limits that depend on the service's settings are checked where requests are answered (`serve.api`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cllm.subjects import Kind
from serve.settings import Limits

Text = Annotated[str, Field(min_length=1, description="a text")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """Strict about names; no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Generate(Body):
    """Where to look and which texts are wanted; none of void, near, between, topic: any void."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"n": 3, "seed": 1, "topic": "soup", "novel": True}]}
    )

    n: int = Field(1, ge=1, description="texts")
    seed: int = Field(0, ge=0, le=2**53, description="the same seed gives the same texts")
    void: int | None = Field(None, ge=0, description="id of a void (/v1/voids)")
    near: Text | None = Field(None, description="a text to stay near to")
    between: tuple[Text, Text] | None = Field(None, description="two texts to look between")
    topic: str | None = Field(
        None, min_length=1, description="words; looks among texts that have all of them"
    )
    groups: Kind | None = Field(
        None, description="texts around the place are of one group, of two, or of more"
    )
    group: list[Text] = Field([], max_length=8, description="groups that are among them")
    min_radius: float = Field(0, ge=0, le=3.15, description="radians from the place to any text")
    min_score: float = Field(0, ge=0, description="least void score of the place; 1 = as elsewhere")
    novel: bool = Field(False, description="only texts that no training text is like")
    valid: bool = Field(False, description="only texts that the judge finds sound")
    hit: bool = Field(False, description="only texts that come back to their place when encoded")
    decodes: int = Field(0, ge=0, description="to spend at most; 0 = 40 for each text")
    vectors: bool = Field(False, description="tell the vector of each place")
    neighbours: int = Field(3, ge=0, description="nearest known texts told of each")
    stream: bool = Field(True, description="a line of JSON for each text as it is found")

    @model_validator(mode="after")
    def _one_place(self) -> Generate:
        given = [self.void, self.near, self.between, self.topic]
        if sum(one is not None for one in given) > 1:
            raise ValueError("give one of void, near, between and topic, or none for any void")
        return self


class Neighbour(Body):
    """A known text, and how far it is."""

    id: str
    title: str
    text: str
    angle: float = Field(description="radians")


class Place(Body):
    """Where a text was written from."""

    void: int | None = Field(description="id of the void it lies in, if of those that are listed")
    in_void: bool
    score: float = Field(description="void score: 1 amid an even crowd")
    radius: float = Field(description="radians to the nearest text")
    groups: list[str] = Field([], description="of the texts around, where groups were asked for")
    vector: list[float] | None = None


class Item(Body):
    """A new text, and what is known of it."""

    number: int
    text: str
    verdict: Literal["novel", "duplicate", "nonsense"]
    valid: bool
    duplicate: bool
    novelty: float = Field(description="share of unseen real texts that are nearer to known ones")
    validity: float
    reasons: list[str]
    hit: bool | None
    round_trip: float | None = Field(description="in angles between neighbours")
    place: Place
    nearest: list[Neighbour] | None = Field(description="null: the store does not answer")


class Generated(Body):
    """All texts of a request, and what they cost."""

    items: list[Item]
    end: End


class End(Body):
    """The last line of a stream: whether all that was asked for was found."""

    found: int
    asked: int
    decodes: int
    complete: bool
    notes: list[str]


class Texts(Body):
    """Texts to encode."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["title: leek soup."]}]})
    texts: list[Text] = Field(min_length=1)


class Vectors(Body):
    """Unit vectors, or prefixes of them, to decode."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"vectors": [[0.6, 0.8]]}]})
    vectors: list[list[Number]] = Field(min_length=1)


class Encoded(Body):
    """A vector for each text."""

    vectors: list[list[float]]


class Decoded(Body):
    """A text for each vector."""

    texts: list[str]


class Interpolate(Body):
    """Two texts, and how many steps along the great circle between them, both ends included."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"first": "title: a.", "last": "title: b.", "steps": 3}]}
    )
    first: Text
    last: Text
    steps: int = Field(5, ge=2)


class Step(Body):
    """A text on the way."""

    at: float = Field(description="share of the way, 0 to 1")
    text: str


class Interpolated(Body):
    """The texts on the way."""

    items: list[Step]


class Neighbours(Body):
    """Texts or vectors whose nearest known texts are wanted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"texts": ["title: leek soup."], "k": 3}]}
    )
    texts: list[Text] | None = Field(None, min_length=1)
    vectors: list[list[Number]] | None = Field(None, min_length=1)
    k: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _either(self) -> Neighbours:
        if (self.texts is None) == (self.vectors is None):
            raise ValueError("give texts or vectors")
        return self


class Found(Body):
    """For each text or vector its nearest known texts, nearest first."""

    neighbours: list[list[Neighbour]]


class RimText(Body):
    """A known text on the rim of a void."""

    id: str
    title: str
    text: str


class Void(Body):
    """A void that stands."""

    id: int
    radius: float = Field(description="radians, to the nearest text")
    score: float = Field(description="void score: 1 amid an even crowd")
    p_value: float | None = Field(description="against null clouds; null: a place of a new text")
    written: bool = Field(description="around a new text of the run, not found by the search")
    texts: int = Field(description="new texts of the run in it")
    groups: list[str] = Field(description="of the texts on its rim, where they are known")
    kind: Kind | None = Field(description="of these: one, two or more")
    x: float = Field(description="on the map")
    y: float
    rim: list[RimText] = Field(description="nearest first")


class Voids(Body):
    """The voids that stand, emptiest first, and what the search for them came to."""

    void_dim: int = Field(description="coordinates that they were sought in")
    search: dict[str, int | float]
    voids: list[Void]


class Map(Body):
    """Known texts pressed flat."""

    shown: int
    of: int
    share: float = Field(description="of how they differ that the plane shows")
    void_dim: int
    points: list[tuple[float, float]]
    rows: list[int] = Field(description="of each point, for /v1/texts/{row}")


class Run(BaseModel):
    """What is served, and what may be asked of it."""

    version: str
    model_hash: str
    void_dim: int
    texts: int = Field(description="known ones, which new ones are compared with")
    store: Literal["milvus", "latents"]
    groups: list[str] = Field(description="of known texts, the most common first")
    limits: Limits
    corpus: dict[str, Any] = Field(description="as in the run's report.json, like the next three")
    base: dict[str, Any]
    model: dict[str, Any]
    reconstruction: dict[str, Any] | None = None


class Ready(Body):
    """Model, index and the run's texts are there."""

    ready: Literal[True] = True
    store: bool = Field(True, description="whether vectors can be compared: Milvus answers")


class ProblemDetails(Body):
    """What was wrong, and what to do (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
