"""The smallest run folder that a sweep takes, and what makes its trials short."""

from __future__ import annotations

from pathlib import Path

from cllm import pipeline
from cllm.base import BaseLM
from cllm.corpus import Corpus
from cllm.files import write_json
from cllm.run import RunFolder

TINY = (
    "train.loop.batch=8", "train.loop.evaluations=4", "train.loop.report_every=1",
    "model.form=direct",
)  # fmt: skip


def tiny_run_in(path: Path, corpus: Corpus, base: BaseLM) -> RunFolder:
    run = RunFolder(path)
    pipeline.keep_corpus(run, corpus)
    base.save(run.base)
    facts = {"name": "tiny", "parameters": base.parameters, "hash": base.hash, "context": 80,
             "corpus_hash": corpus.hash, "restored_tokens": 1.0}  # fmt: skip
    write_json(run.base / "training.json", {"facts": facts, "identity": "", "settings": {}})
    run.note("base", facts)
    return run
