"""What the benchmarks share, and how cost grows with the length of texts (`bench.train`)."""

# Shapes: B texts, T tokens, H width.
from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cllm.model import CLLM, CLLMConfig

WIDTH_OF_CONTEXT_PART = 64


def context(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak memory of one array's way down, up and back, by number of tokens.

    Batch of one, width 64; repetitions go round the sizes, the first is a warm-up; memory is
    measured in a process of its own for each size.
    """
    seconds: dict[int, list[float]] = {tokens: [] for tokens in options.contexts}
    models = {tokens: long_model(tokens, options.dim) for tokens in options.contexts}
    for repeat in range(options.repeats + 1):
        for tokens, model in models.items():
            taken = there_and_back(model, tokens)
            seconds[tokens] += [taken] if repeat else []
    first = options.contexts[0]
    medians = {tokens: float(np.median(taken)) for tokens, taken in seconds.items()}
    rows = []
    for tokens, median in medians.items():
        row: dict[str, Any] = {"tokens": tokens, "seconds": median}
        row["seconds_range"] = [min(seconds[tokens]), max(seconds[tokens])]
        row["per_token_relative"] = median / tokens / (medians[first] / first)
        row["peak_mib"] = _peak_of(tokens, options)
        row["parameters"] = models[tokens].parameters_count
        say(f"context {row}")
        rows.append(row)
    return {"width": WIDTH_OF_CONTEXT_PART, "dim": options.dim, "batch": 1, "sizes": rows}


def long_model(tokens: int, dim: int) -> CLLM:
    """A CLLM over arrays of (tokens, 64), without a base."""
    torch.manual_seed(0)
    return CLLM(CLLMConfig(context=tokens, width=WIDTH_OF_CONTEXT_PART, dim=dim))


def there_and_back(model: CLLM, tokens: int) -> float:
    """Seconds of encoding and decoding one array, forward and backward."""
    array_BTH = torch.randn(1, tokens, WIDTH_OF_CONTEXT_PART)
    mask_BT = torch.ones(1, tokens, dtype=torch.bool)
    model.zero_grad(set_to_none=True)
    begun = time.perf_counter()
    restored_BTH = model.decode_array(model.encode_array(array_BTH, mask_BT))
    (restored_BTH - array_BTH).square().mean().backward()
    return time.perf_counter() - begun


def _peak_of(tokens: int, options: argparse.Namespace) -> float | None:
    return apart("bench.train", "--memory-of", tokens, "--dim", options.dim,
                 "--threads", options.threads)  # fmt: skip


def apart(program: str, *words: object) -> float | None:
    """The number that a program prints as JSON, in a process of its own."""
    command = [sys.executable, "-m", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: float | None = json.loads(done.stdout)
    return found


def memory_of(tokens: int, dim: int) -> float | None:
    """MiB by which this process grew at most, model excluded; None where /proc is not Linux's."""
    model = long_model(tokens, dim)
    return grown(lambda: there_and_back(model, tokens))


def grown(does: Callable[[], object]) -> float | None:
    """MiB by which this process grew at most as that was done; None where /proc is not Linux's."""
    status, peaks = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and peaks.exists()):
        return None
    peaks.write_text("5")  # the highest so far is forgotten
    before = re.search(r"VmRSS:\s+(\d+)", status.read_text())
    does()
    highest = re.search(r"VmHWM:\s+(\d+)", status.read_text())
    return (int(highest[1]) - int(before[1])) / 1024 if highest and before else None


def in_turns(sides: Mapping[str, Any], repeat: int) -> list[tuple[str, Any]]:
    """The sides of a ratio, the other one first each time."""
    return list(sides.items())[:: -1 if repeat % 2 else 1]


def matmul_rate(size: int, device: str, dtype: torch.dtype) -> float:
    """FLOPs a second of a large square product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(3):
        a @ b
    wait()
    begun = time.perf_counter()
    for _ in range(20):
        a @ b
    wait()
    return 20 * 2 * size**3 / (time.perf_counter() - begun)


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
