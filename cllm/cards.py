"""Model cards: what a folder of weights is, how it was made, and how good it is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cllm.corpus import Corpus
from cllm.files import replacing

_CARD = """---
license: apache-2.0
library_name: {library}
pipeline_tag: text2text-generation
tags: [cllm, {kind}]
---

# {title}

{what}

| | |
|---|---|
| corpus | {source}, {texts} texts, hash `{corpus_hash}` |
| seed | {seed} |
| made by | `{command}` |
{facts}
{scores}

Weights are safetensors; nothing in this folder is pickled or run.
"""


def command_line() -> str:
    """The command that is running, as it was typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write_base_card(
    folder: Path, facts: Mapping[str, Any], corpus: Corpus, seed: int, command: str
) -> None:
    """README.md of a base LLM."""
    what = (
        "A small encoder-decoder that restores texts of one corpus from their token embeddings, "
        "made to be frozen under a CLLM. `reference/` holds a decoder LM of the same size that "
        "sees no embedding: what a text costs without its vector."
    )
    words = {"library": "transformers", "kind": "base", "title": "Base LLM", "what": what}
    _write(folder, words, facts, corpus, seed, command, {})


def write_model_card(
    folder: Path, facts: Mapping[str, Any], corpus: Corpus, seed: int, command: str,
    scores: Mapping[str, Any],
) -> None:  # fmt: skip
    """README.md of a CLLM; `scores` are report.json's `reconstruction`, empty before it."""
    what = (
        f"Folds a text's token embeddings into one unit vector of {facts['dim']} coordinates and "
        "back. The base LLM lies in `../base` and is loaded with it: "
        "`CLLM.from_pretrained(folder)`."
    )
    words = {"library": "cllm", "kind": "autoencoder", "title": "CLLM", "what": what}
    _write(folder, words, facts, corpus, seed, command, scores)


def _write(
    folder: Path, words: Mapping[str, str], facts: Mapping[str, Any], corpus: Corpus, seed: int,
    command: str, scores: Mapping[str, Any],
) -> None:  # fmt: skip
    measured = {k: v for k, v in scores.items() if isinstance(v, float)}
    heading = "\nOn held-out texts (test split, `cllm evaluate`):\n\n| | |\n|---|---|\n"
    card = _CARD.format(
        **words,
        source=corpus.info.get("source", "a corpus"),
        texts=len(corpus),
        corpus_hash=corpus.hash,
        seed=seed,
        command=command,
        facts=_rows(facts),
        scores=heading + _rows(measured) if measured else "",
    )
    with replacing(folder / "README.md") as new:
        new.write_text(card, encoding="utf-8")


def _rows(facts: Mapping[str, Any]) -> str:
    def shown(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return "\n".join(f"| {name.replace('_', ' ')} | {shown(v)} |" for name, v in facts.items())
