"""What `cllm plan` predicts beside what this machine does: a part of `bench.cluster`.

One core, float32, the shipped base: its matmul rate stands for the GPU's peak.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from bench._context import matmul_rate
from cllm.run import SHIPPED, RunFolder
from cluster.plan import FP32, ROW_BYTES, Job, count, skeleton

MATMUL = 1024


def beside(run: RunFolder, trained: float, embedded: float, store: Path) -> dict[str, Any]:
    """Predicted and measured, by what; `trained` tokens a second, `embedded` texts a second.

    `store` is a Milvus Lite folder that holds the run's vectors; the model has default settings.
    """
    model, texts = run.load_model(), run.load_corpus().texts
    tokens = model.tokens(texts)
    mean = round(sum(map(len, tokens.rows)) / len(tokens.rows))
    job = Job(str(SHIPPED / "base"), len(texts), 1, "", tokens=mean)
    torch.set_num_threads(1)
    rate = matmul_rate(MATMUL, "cpu", torch.float32)
    counted = count(skeleton(job), mean)
    (vectors,) = {path.parent for path in run.path.glob("latents/v-*/*.parquet")}
    row = FP32 * model.config.dim + ROW_BYTES
    pairs = {
        "training_tokens_a_second": (rate / counted["step_flops"] * mean, trained),
        "embedding_texts_a_second": (rate / counted["embed_flops"], embedded),
        "parquet_bytes_a_text": (row, without_texts(vectors) / len(texts)),
        "milvus_bytes_a_text": (1.2 * row, size(store) / len(texts)),
    }
    found = {
        name: {"predicted": planned, "measured": measured, "ratio": measured / planned}
        for name, (planned, measured) in pairs.items()
    }
    return found | {"matmul_gflops": rate / 1e9, "tokens_a_text": mean}


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def without_texts(folder: Path) -> int:
    """Bytes of Parquet files but for their column of texts, which is not planned."""
    total = 0
    for path in folder.glob("*.parquet"):
        file = pq.ParquetFile(path).metadata
        for group in map(file.row_group, range(file.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            total += sum(c.total_compressed_size for c in columns if c.path_in_schema != "text")
    return total
