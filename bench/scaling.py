"""How a training grows from 1 to 512 GPUs and from 10^5 to 10^9 texts, by `cllm plan`.

python -m bench.scaling --json
python -m bench.scaling --base google/flan-t5-xl --gpu h200
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cllm.console import one_line_errors
from cllm.settings import ModelSettings
from cluster.plan import Job, plan

GPUS = (1, 8, 64, 512)
TEXTS = (1e5, 1e6, 1e7, 1e8, 1e9)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object: rows by number of texts and of GPUs."""
    p = argparse.ArgumentParser(prog="bench.scaling", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--base", default="google/flan-t5-large")
    p.add_argument("--gpu", default="h100")
    p.add_argument("--dim", type=int, default=64)
    o = p.parse_args(arguments)
    with one_line_errors():
        job = Job(o.base, 1, 1, o.gpu, shape=ModelSettings(dim=o.dim))
        rows = [row(replace(job, texts=n, gpus=g)) for n in TEXTS for g in GPUS]
    print(json.dumps({"base": o.base, "gpu": o.gpu, "dim": o.dim, "rows": rows}))


def row(job: Job) -> dict[str, Any]:
    """What changes with texts and GPUs."""
    told = plan(job)
    return {
        "texts": job.texts,
        "gpus": job.gpus,
        "steps": told["steps"],
        "hours": sum(told["hours"].values()),
        "cost_dollars": told["cost_dollars"],
        "communication_share": told["communication_share"],
        "tokens_a_second": told["tokens_a_second"],
        "token_matrices_gb": told["storage_gb"]["token_matrices"],
        "vectors_gb": told["storage_gb"]["vectors_parquet"],
        "milvus_gb": told["storage_gb"]["milvus"],
        "training_host_gib": told["host_memory_gib"]["training_worker"],
        "embedding_driver_gib": told["host_memory_gib"]["embedding_driver"],
        "void_core_hours": told["voids"]["core_hours"],
        "void_finder_gib": told["voids"]["finder_gib"],
    }


if __name__ == "__main__":
    main()
