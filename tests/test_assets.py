"""The run folders that ship: whole, small, safe, and as good as its report says."""

import json

import numpy as np
import pytest

from cllm.recipes import check, combination
from cllm.run import SHIPPED, SHIPPED_VOIDS, RunFolder, existing_run
from cllm.sampler import Sampler
from cllm.sampling import Request

RUN = RunFolder(SHIPPED)
VOIDS = RunFolder(SHIPPED_VOIDS)


def report():
    return json.loads(RUN.report.read_text("utf-8"))


def test_each_is_a_whole_run_and_both_have_at_most_25_megabytes():
    parts = ("corpus.parquet", "base", "base/reference", "model", "latents", "voids.parquet")
    for part in parts:
        assert (SHIPPED / part).exists(), part
        assert (SHIPPED_VOIDS / part).exists(), part
    files = [file for file in SHIPPED.parent.rglob("*") if file.is_file()]
    assert sum({file.resolve(): file.stat().st_size for file in files}.values()) <= 25e6


def test_the_one_for_voids_writes_new_sound_texts_from_voids_at_once():
    wanted = Request(n=3, novel=True, valid=True, hit=True)
    found = list(Sampler.of(VOIDS).sample(wanted))
    assert len(found) == 3
    for sample in found:
        assert sample.spot.in_void
        assert not check(sample.idea.text)
        assert sample.idea.text not in VOIDS.load_corpus().texts


def test_the_one_for_voids_is_over_the_same_base_and_corpus():
    weights = [run.base / "model.safetensors" for run in (VOIDS, RUN)]
    assert weights[0].resolve() == weights[1].resolve()
    assert VOIDS.load_corpus().hash == RUN.load_corpus().hash
    assert VOIDS.shipped
    assert existing_run(None, SHIPPED / "no", SHIPPED_VOIDS).path == SHIPPED_VOIDS


def test_cards_tell_command_seed_corpus_and_scores():
    for folder in ("base", "model"):
        card = (SHIPPED / folder / "README.md").read_text("utf-8")
        for fact in ("make assets", "| seed | 0 |", RUN.load_corpus().hash):
            assert fact in card
    assert f"| exact match | {report()['reconstruction']['exact_match']:.4g} |" in card


def test_every_file_of_weights_is_safetensors():
    kinds = {file.suffix for file in SHIPPED.parent.rglob("*") if file.is_file()}
    assert kinds <= {".json", ".jsonl", ".md", ".npz", ".parquet", ".safetensors"}


def test_report_says_shipped_and_what_it_was_measured_on():
    found = report()
    assert found["model"]["origin"] == "shipped"
    assert found["reconstruction"]["split"] == "test"
    assert found["reconstruction"]["n"] >= 500


def test_commands_without_a_run_use_it(tmp_path):
    assert existing_run(None, tmp_path / "runs/default").shipped


def test_it_restores_unseen_recipes_about_as_well_as_its_report_says():
    model, corpus = RUN.load_model(), RUN.load_corpus()
    texts = corpus.select("test").texts[:64]
    exact = np.mean([a == b for a, b in zip(texts, model.reconstruct(texts), strict=True)])
    told = report()["reconstruction"]["exact_match"]
    assert abs(exact - told) <= 4 * max(0.02, (told * (1 - told) / len(texts)) ** 0.5)


def test_latents_belong_to_the_model():
    for run in (RUN, VOIDS):
        model = run.load_model()
        latents = run.load_latents(model)
        assert model.hash == latents.model_hash
        again = model.encode(latents.texts[:8])
        np.testing.assert_allclose(again, latents.vectors_ND[:8], atol=1e-4)


def test_withheld_combinations_are_really_absent_from_its_corpus():
    corpus = RUN.load_corpus()
    withheld = {tuple(pair) for pair in corpus.info["withheld"]}
    assert withheld
    assert not withheld & {combination(text) for text in corpus.texts}
    assert not any(check(text) for text in corpus.texts[:200])


@pytest.mark.timeout(1800)  # five minutes of an idle machine; it trains by the clock
@pytest.mark.slow
def test_demo_trains_live_and_ends_with_a_report(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from cllm.cli import app

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["demo", "--seconds", "60", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "runs/demo/report.json").read_text("utf-8"))
    assert found["model"]["origin"] == "trained here"
    gained, ceiling = found["reconstruction"]["gain_nats"], found["corpus"]["entropy_nats"]
    assert found["reconstruction"]["shuffled_content_f1"] < found["reconstruction"]["content_f1"]
    assert 0 < gained < ceiling + 3


def test_its_report_holds_every_number_of_the_design():
    names = [
        "n", "exact_match", "token_accuracy", "bleu", "chrf", "content_f1", "array_r2",
        "gain_nats", "nats_per_dim", "retrieval_bleu", "retrieval_content_f1", "round_trip",
        "gain_over_entropy",
    ]  # fmt: skip
    found = report()
    assert set(names) <= found["reconstruction"].keys()
    assert {f"{name}_ci" for name in names[1:]} <= found["reconstruction"].keys()
    voids = {"count", "radius_ratio", "p_value", "hopkins", "uniformity", "intrinsic_dim"}
    assert voids <= found["voids"].keys()
    assert {"void", "interpolation", "prior", "copy", "base"} <= found["ideas"].keys()
    assert found["voids"]["chance_score"] > 1
    assert found["model"]["origin"] == "shipped"
    assert found["model"]["hash"] == RUN.load_model().hash
