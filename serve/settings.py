"""What a service is built from: the run, who may call, and how much at a time.

serve run serve.app:build run=runs/demo          # each field is an argument
serve deploy serve/config.yaml                   # or a line of its `args`
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cllm.errors import InputError

ENDS = "ends"  # in what the API is told while it runs: answer what was accepted, and no more


class Limits(BaseModel):
    """What one request may ask for, and how many may ask at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(1_000_000, ge=1000, description="of a request")
    body_seconds: float = Field(10, gt=0, description="in which it has to come")
    text_characters: int = Field(5000, ge=10, description="of one text")
    texts: int = Field(64, ge=1, description="texts or vectors of a request")
    n: int = Field(50, ge=1, description="texts that `generate` may be asked for")
    decodes: int = Field(4000, ge=1, description="that one `generate` may spend")
    neighbours: int = Field(20, ge=1, description="of a text")
    points: int = Field(20_000, ge=1, description="texts on a map")
    seconds: float = Field(120, gt=0, description="for a request")
    in_flight: int = Field(64, ge=1, description="requests worked on; more are told to come back")
    per_minute: int = Field(600, ge=0, description="requests of a key; 0 = as many as it likes")


class ServeSettings(BaseModel):
    """Everything a service is started with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str | None = Field(None, description="run folder; none = the default, else the shipped")
    milvus: str | None = Field(
        None, description="URI of a server with the run's vectors; none = the run's own latents"
    )
    keys: Path | None = Field(None, description="file of API keys; none = nobody needs one")
    limits: Limits = Limits()
    models: int = Field(1, ge=1, description="replicas that encode and decode")
    model_cpus: float = Field(1, gt=0, description="of such a replica")
    model_gpus: float = Field(0, ge=0, description="of such a replica")
    places: int = Field(1, ge=1, description="replicas that search places and judge texts")
    stores: int = Field(1, ge=1, description="replicas that ask Milvus, or search the latents")
    apis: int = Field(1, ge=1, description="replicas that answer requests")
    batch: int = Field(64, ge=1, description="vectors or texts that are worked on together")

    @field_validator("milvus")
    @classmethod
    def _is_a_server(cls, uri: str | None) -> str | None:
        """InputError for a file: parts on several nodes cannot share one."""
        if uri is not None and "://" not in uri:
            raise InputError(
                f"{uri} is no URI of a Milvus server, like http://host:19530; without one a "
                "service searches the run's own latents, exactly: leave --milvus out"
            )
        return uri
