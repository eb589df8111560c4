"""The corpora that the law of the dimension is measured on, and the one base they all share.

Families are kinds of text; a family's smaller corpora are parts of its largest one, with the same
held-out texts. One base for all of them, trained on all training texts, so that corpora differ in
nothing but themselves.

    base = shared_base(out, corpora, settings)
    for cell in CELLS: run = prepared(cell, base, out, corpora, settings)
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from cllm import pipeline
from cllm.cards import write_base_card
from cllm.corpus import Corpus, build_corpus, built_in_corpus
from cllm.errors import InputError
from cllm.files import halve, replacing
from cllm.reading import read_rows
from cllm.run import RunFolder, training_facts
from cllm.settings import RunSettings

SHIPPED_BASE = Path(__file__).parent / "assets" / "base"
FILES = {  # families of real texts, and their files
    "lists": "recipes_ingredients.jsonl.gz",
    "recipes": "recipes_public_domain.jsonl.gz",
    "products": "products.jsonl.gz",
    "abstracts": "abstracts.jsonl.gz",
}
TITLES = "-titles"  # of a kind: its titles alone are texts too, and short ones
BUILT_IN = ("plain", "rich")  # one family: the same grammar, with fewer and with more words
DRAWN = 18_000  # recipes of the built-in grammar
SPLIT = (0.8, 0.15, 0.05)  # more held-out texts than usual: small corpora have few


@dataclass(frozen=True)
class Cell:
    """One corpus: of a kind of text, so many training texts of it at most."""

    kind: str
    texts: int

    @property
    def family(self) -> str:
        """What is left out together when the law is tried: texts and their titles are one."""
        return "built-in" if self.kind in BUILT_IN else self.kind.removesuffix(TITLES)

    @property
    def name(self) -> str:
        """As in tables and folders."""
        return f"{self.kind}-{self.texts}"


CELLS = (
    *(Cell(kind, texts) for kind in BUILT_IN for texts in (1000, 4000, 14_000)),
    Cell("lists", 4000), Cell("lists", 16_000), Cell("recipes", 700), Cell("products", 1300),
    Cell("abstracts", 1500), Cell("abstracts", 5500),
    Cell("lists-titles", 4000), Cell("lists-titles", 16_000), Cell("recipes-titles", 700),
    Cell("products-titles", 1300), Cell("abstracts-titles", 1500), Cell("abstracts-titles", 5500),
)  # fmt: skip


def whole(kind: str, corpora: Path) -> Corpus:
    """All texts of a kind; InputError where its file is not in the folder `corpora`."""
    if kind in BUILT_IN:
        return built_in_corpus(kind, DRAWN, 0)  # type: ignore[arg-type]  # one of its names
    file = corpora / FILES[kind.removesuffix(TITLES)]
    if not file.exists():
        raise InputError(f"{file} does not exist; name the folder that holds it with --corpora")
    column = "title" if kind.endswith(TITLES) else "text"
    return build_corpus(read_rows(file, text_column=column), split=SPLIT)


def part(corpus: Corpus, texts: int) -> Corpus:
    """`texts` of the training texts, drawn by id, and all held-out ones."""
    kept = set(corpus.select("train").sample(texts).ids)
    both = zip(corpus.ids, corpus.splits, strict=True)
    return corpus.only([split != "train" or name in kept for name, split in both])


def union(kinds: tuple[str, ...], corpora: Path, most: int) -> Corpus:
    """Training and validation texts of several kinds in one corpus, `most` of each."""
    parts = []
    for kind in kinds:
        one = part(whole(kind, corpora), most)
        seen = one.only([split != "test" for split in one.splits])
        parts.append(replace(seen, ids=tuple(f"{kind} {name}" for name in seen.ids)))
    ids, texts, titles, groups, splits = (
        tuple(value for one in parts for value in getattr(one, column))
        for column in ("ids", "texts", "titles", "groups", "splits")
    )
    return Corpus(ids, texts, titles, groups, splits, {"source": "all families"})


def shared_base(out: Path, corpora: Path, settings: RunSettings) -> RunFolder:
    """The base of all cells: the shipped one, if it was made of just these texts, else trained."""
    run = RunFolder(out / "base")
    kinds = tuple(dict.fromkeys(cell.kind for cell in CELLS))
    texts = union(kinds, corpora, max(cell.texts for cell in CELLS))
    if not run.corpus.exists():
        pipeline.keep_corpus(run, texts)
    if run.load_corpus().hash != texts.hash:
        raise InputError(f"{run.path} was made of other texts; remove {out}, to measure anew")
    if run.base.is_dir():
        return run
    if SHIPPED_BASE.is_dir() and training_facts(SHIPPED_BASE)["corpus_hash"] == texts.hash:
        pipeline.borrow_base(run, SHIPPED_BASE)
    else:
        pipeline.make_base(run, settings.base)
    return run


def ship_base(run: RunFolder) -> None:
    """Keep it in the package, in half precision: corpora measured later are over the same one."""
    with replacing(SHIPPED_BASE) as new:
        shutil.copytree(run.base, new)
        halve(new / "model.safetensors")
        write_base_card(new, run.notes()["base"], run.load_corpus(), 0, "python -m tune.law")


def prepared(
    cell: Cell, base: RunFolder, out: Path, corpora: Path, settings: RunSettings
) -> RunFolder:
    """A cell's run folder: its corpus, the shared base, and a reference LM where one is needed."""
    run = RunFolder(out / cell.name)
    if not run.base.is_dir():
        pipeline.keep_corpus(run, part(whole(cell.kind, corpora), cell.texts))
        pipeline.borrow_base(run, base.base)
    if run.notes()["base"]["hash"] != base.notes()["base"]["hash"]:
        raise InputError(f"{run.path} was made over another base; remove it, to measure it anew")
    if cell.kind not in BUILT_IN:  # whose exact entropy is below what any LM reaches
        pipeline.make_reference(run, settings, reuse=True)
    return run
