"""Model cards: what a folder of weights is, how it was made, and how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cllm.corpus import Corpus
from cllm.settings import RunSettings

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
{facts}

Weights are safetensors; nothing in this folder is pickled or run.
"""


def write_base_card(folder: Path, facts: dict[str, Any], corpus: Corpus, seed: int) -> None:
    """README.md of a base LLM."""
    what = (
        "A small encoder-decoder that restores texts of one corpus from their token embeddings, "
        "made to be frozen under a CLLM. `reference/` holds a decoder LM of the same size that "
        "sees no embedding: what a text costs without its vector."
    )
    _write(folder, "transformers", "base", "Base LLM", what, facts, corpus, seed)


def write_model_card(
    folder: Path, facts: dict[str, Any], corpus: Corpus, settings: RunSettings
) -> None:
    """README.md of a CLLM; `cllm evaluate` gives its scores."""
    what = (
        f"Folds a text's token embeddings into one unit vector of {facts['dim']} coordinates and "
        "back. The base LLM lies in `../base` and is loaded with it: "
        "`CLLM.from_pretrained(folder)`. Scores on held-out texts: `report.json` beside this "
        "folder, made by `cllm evaluate`."
    )
    _write(folder, "cllm", "autoencoder", "CLLM", what, facts, corpus, settings.seed)


def _write(
    folder: Path, library: str, kind: str, title: str, what: str, facts: dict[str, Any],
    corpus: Corpus, seed: int,
) -> None:  # fmt: skip
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in facts.items())
    card = _CARD.format(
        library=library,
        kind=kind,
        title=title,
        what=what,
        source=corpus.info.get("source", "a corpus"),
        texts=len(corpus),
        corpus_hash=corpus.hash,
        seed=seed,
        facts=rows,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
