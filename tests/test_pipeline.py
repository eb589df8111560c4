"""Choices that the chain makes by itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cllm import discovery, evaluate, pipeline, writing
from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import built_in_corpus
from cllm.errors import InputError
from cllm.fitting import require_enough_texts
from cllm.model import CLLM
from cllm.plausibility import Plausibility
from cllm.run import SHIPPED, SHIPPED_VOIDS, RunFolder
from cllm.settings import overridden
from cllm.void_files import save_voids, standing_voids

NULL, REFERENCE = 30.0, 25.0  # nats a text without its vector


@pytest.fixture
def chosen(
    new_cllm: Callable[..., CLLM],
    texts: TokenTexts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., int]:
    """The prefix that is chosen where prefixes leave these nats."""

    def choose(
        by_prefix: dict[int, float], *, reference: bool = True, nested: bool = True,
        trained: Sequence[int] = (2, 4, 8, 16),
    ) -> int:  # fmt: skip
        class Reference:
            def nats(self, texts: TokenTexts) -> np.ndarray:
                return np.full(len(texts), REFERENCE)

        def nats(_model: CLLM, texts: TokenTexts, k: int) -> np.ndarray:
            return np.full(len(texts), by_prefix[k])

        model = new_cllm(dim=32)
        model.config.nested = nested
        run = RunFolder(tmp_path)
        if reference:
            (run.base / "reference").mkdir(parents=True)
        monkeypatch.setattr(RunFolder, "load_reference", lambda *_: Reference())
        monkeypatch.setattr(pipeline, "text_nats", nats)
        monkeypatch.setattr(evaluate, "null_nats", lambda _, texts: np.full(len(texts), NULL))
        return pipeline.choose_void_dim(run, model, texts, trained)

    return choose


def test_voids_are_sought_in_the_shortest_prefix_that_gains(chosen: Callable[..., int]) -> None:
    assert chosen({2: 1.0, 4: 26.0, 8: 24.0, 16: 9.0}) == 8


def test_two_coordinates_are_never_enough(chosen: Callable[..., int]) -> None:
    assert chosen({2: 1.0, 4: 2.0, 8: 3.0, 16: 4.0}) == 4


def test_a_gain_counts_from_the_cheaper_of_null_vector_and_reference(
    chosen: Callable[..., int],
) -> None:
    assert chosen({2: 0.0, 4: 28.0, 8: 27.0, 16: 9.0}, reference=False) == 4


@pytest.mark.parametrize("nested", [True, False])
def test_without_a_prefix_that_gains_the_whole_vector_is_taken(
    chosen: Callable[..., int], nested: bool
) -> None:
    nats = 99.0 if nested else 1.0  # a plain model is never asked
    assert chosen(dict.fromkeys((2, 4, 8, 16), nats), nested=nested) == 32


@pytest.mark.parametrize(("only", "taken"), [(8, 8), (2, 32)])
def test_the_one_prefix_that_was_trained_is_taken_though_it_does_not_gain(
    chosen: Callable[..., int], only: int, taken: int
) -> None:
    assert chosen({only: 99.0}, trained=[only]) == taken


def built_in_run(folder: Path, count: int = 60) -> RunFolder:
    run = RunFolder(folder)
    pipeline.keep_corpus(run, built_in_corpus("plain", count, 0))
    return run


SHORT = overridden(
    "quick", base_steps=2, steps=2, changes=["base.context=80", "base.rank=4", "base.loop.batch=8"]
)


def test_a_base_from_a_folder_is_adapted_once_and_again_when_it_changes(
    tiny_bart: BaseLM, tmp_path: Path
) -> None:
    run, source = built_in_run(tmp_path / "run"), tmp_path / "bart"
    tiny_bart.save(source)
    pipeline.adapt_base(run, str(source), SHORT.base, reuse=True)
    facts = run.notes()["base"]
    assert facts["name"] == str(source)
    assert facts["hash"] == run.load_base().hash != tiny_bart.hash
    written = (run.base / "model.safetensors").stat().st_mtime_ns
    pipeline.adapt_base(run, str(source), SHORT.base, reuse=True)
    assert (run.base / "model.safetensors").stat().st_mtime_ns == written
    run.load_base().save(source)  # another model under the same name
    pipeline.adapt_base(run, str(source), SHORT.base, reuse=True)
    assert (run.base / "model.safetensors").stat().st_mtime_ns != written


def test_a_borrowed_base_is_measured_on_the_borrower_s_texts(tmp_path: Path) -> None:
    run = built_in_run(tmp_path)
    pipeline.borrow_base(run, SHIPPED / "base")
    assert run.notes()["base"]["corpus_hash"] == run.load_corpus().hash
    assert run.notes()["base"]["restored_tokens"] > 0.99
    assert run.load_reference(run.load_base())


def test_a_weak_base_is_refused_and_the_permission_recorded(
    tiny_base: BaseLM, tmp_path: Path
) -> None:
    run = built_in_run(tmp_path)
    with pytest.raises(InputError, match="never tested"):
        pipeline.require_restoring(run, 0.99, allow_weak=False)
    run.note("base", {"restored_tokens": 0.98, "corpus_hash": run.load_corpus().hash})
    with pytest.raises(InputError, match=r"98.00 % .* below 99 %"):
        pipeline.require_restoring(run, 0.99, allow_weak=False)
    assert "weak_base_allowed" not in run.notes()["base"]
    pipeline.require_restoring(run, 0.99, allow_weak=True)
    assert run.notes()["base"]["weak_base_allowed"] is True
    pipeline.require_restoring(run, 0.9, allow_weak=False)
    assert run.notes()["base"]["minimum_restored"] == 0.9


def test_a_new_corpus_makes_what_was_measured_untrue(tmp_path: Path) -> None:
    run = built_in_run(tmp_path)
    run.note("model", {"dim": 8})
    run.note("reconstruction", {"n": 3})
    pipeline.keep_corpus(run, run.load_corpus())
    assert "model" in run.notes()
    pipeline.keep_corpus(run, built_in_corpus("plain", 60, 1))
    assert not run.notes().keys() & {"model", "reconstruction", "base"}


def test_vectors_longer_than_the_corpus_are_refused() -> None:
    corpus = built_in_corpus("plain", 30, 0)
    require_enough_texts(corpus, len(corpus.select("train")))
    with pytest.raises(InputError, match="would only number them"):
        require_enough_texts(corpus, len(corpus.select("train")) + 1)


@pytest.mark.chain
def test_no_void_at_all_is_an_answer_to_the_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED, run.path)
    facts = {"count": 0, "enclosed": 0, "p_value": 1.0, "chance_score": 99.0}
    run.note("voids", facts)
    save_voids(run.voids, (), (), run.load_model().hash)
    ideas = discovery.write_ideas(run, seed=0, budget=20)
    assert {idea.arm for idea in ideas} >= {"interpolation", "prior", "base"}
    assert run.notes()["ideas"]["void"]["sampled"] == 0
    discovery.report_run(run)
    page = (run.path / "report.html").read_text("utf-8")
    first = page.split("<body>")[1].lstrip()
    assert first.startswith("<h1>Nothing is written from voids: no empty place is emptier")


@pytest.mark.chain
def test_new_texts_lie_in_voids_that_are_kept_and_made_anew_with_them(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED_VOIDS, run.path)
    model = run.load_model()
    train = run.load_latents(model).select("train")
    searched = [void for void in standing_voids(run, model.hash, train) if not void.written]
    for seed in (0, 1):
        ideas = discovery.write_ideas(run, seed=seed, budget=300, controls=False)
        voids = standing_voids(run, model.hash, train)
        assert [void.id for void in voids if not void.written] == [void.id for void in searched]
        written = {void.id for void in voids if void.written}
        assert written
        assert len({void.id for void in voids}) == len(voids)
        new = {idea.void_id for idea in ideas if idea.yields}
        assert None not in new
        assert written <= new


@pytest.mark.chain
def test_what_the_reference_lm_finds_unlikely_is_not_plausible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(SHIPPED)
    model, corpus = run.load_model(), run.load_corpus()
    plausible = writing.make_plausible(run, model, corpus)
    assert plausible is not None
    real = list(corpus.select("test").texts[:40])
    assert plausible(real).mean() > 0.95
    mixed = [" ".join(reversed(text.split())) for text in real]
    assert not plausible(mixed).any()
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(SHIPPED, copy.path)
    learnt = writing.make_plausible(copy, model, corpus)
    monkeypatch.setattr(Plausibility, "learn", None)  # another model over this base need not
    again = writing.make_plausible(copy, model, corpus)
    assert learnt is not None
    assert again is not None
    assert again.limits == learnt.limits == plausible.limits
    assert again(mixed + real).tolist() == plausible(mixed + real).tolist()
    bare = RunFolder(tmp_path)
    assert writing.make_plausible(bare, model, corpus) is None
