"""The peer of `bench.serve`: a plain FastAPI app that calls the library for each request."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from cllm.run import SHIPPED_VOIDS, RunFolder
from cllm.sampler import Sampler
from cllm.sampling import Request
from cllm.where import Where


def main(port: int, run: Path) -> None:
    """Serve until ended."""
    sampler, one_at_a_time, app = Sampler.of(RunFolder(run)), threading.Lock(), FastAPI()

    @app.post("/v1/generate")
    def generate(body: dict[str, Any]) -> dict[str, Any]:
        wanted = Request(Where(topic=body["topic"]), n=body["n"], seed=body["seed"])
        with one_at_a_time:  # a model's threads would only wait for each other
            return {"items": [{"text": one.idea.text} for one in sampler.sample(wanted)]}

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
    server.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else SHIPPED_VOIDS)
