"""The CLLM: texts to unit vectors and back, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONTEXT, new_tiny_base
from safetensors.torch import load_file, save_file

from cllm.base import BaseLM
from cllm.batches import TokenTexts
from cllm.corpus import Corpus
from cllm.engines import Torch
from cllm.errors import InputError
from cllm.losses import Restoring
from cllm.model import CLLM
from cllm.settings import LoopSettings, TrainSettings
from cllm.sphere import angle
from cllm.training import train_step

# Shapes: N texts, D bottleneck, k prefix.
New = Callable[..., CLLM]


@pytest.fixture(scope="module")
def vectors_ND(tiny_cllm: CLLM, corpus: Corpus) -> np.ndarray:
    return tiny_cllm.encode(corpus.texts[:20])


@pytest.fixture(scope="module")
def saved(tiny_cllm: CLLM, tiny_base: BaseLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    tiny_base.save(run / "base")
    tiny_cllm.save_pretrained(run / "model")
    return run


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


# ---- vectors -------------------------------------------------------------------------


def test_vectors_are_unit_and_tell_texts_apart(vectors_ND: np.ndarray) -> None:
    assert vectors_ND.shape == (20, 8)
    assert vectors_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, atol=1e-5)
    assert angle(vectors_ND[:-1], vectors_ND[1:]).min() > 0.05


def test_a_vector_does_not_depend_on_the_batch(
    tiny_cllm: CLLM, corpus: Corpus, vectors_ND: np.ndarray
) -> None:
    texts = ["leek soup", *corpus.texts[:20]]  # a short one, so that the others' padding differs
    np.testing.assert_allclose(tiny_cllm.encode(texts, batch=7)[1:], vectors_ND, atol=1e-5)
    np.testing.assert_allclose(tiny_cllm.encode(texts[:1]), tiny_cllm.encode(texts)[:1], atol=1e-5)


def test_no_text_is_no_vector(tiny_cllm: CLLM) -> None:
    assert tiny_cllm.encode([]).shape == (0, 8)
    assert tiny_cllm.decode(np.zeros((0, 8), np.float32)) == []
    assert tiny_cllm.encode([""]).shape == (1, 8)


def test_texts_beyond_the_context_are_cut_and_counted(tiny_cllm: CLLM, corpus: Corpus) -> None:
    long = corpus.texts[0] + " and so on" * 100
    tokens = tiny_cllm.tokens([long, corpus.texts[0]])
    assert tokens.cut == 1
    assert max(map(len, tokens.rows)) == CONTEXT
    assert np.isfinite(tiny_cllm.encode([long])).all()


def test_as_it_is_cut_a_text_ends_with_the_context_and_a_short_one_is_itself(
    tiny_cllm: CLLM, corpus: Corpus
) -> None:
    long = " ".join(corpus.texts[:3])
    short, cut = tiny_cllm.as_cut([corpus.texts[0], long])
    assert short == corpus.texts[0]
    assert long.startswith(cut[: len(cut) // 2])
    assert len(cut) < len(long)
    assert tiny_cllm.as_cut(corpus.texts[:2]) == list(corpus.texts[:2])


def test_only_the_vector_reaches_the_decoder(
    tiny_cllm: CLLM, corpus: Corpus, vectors_ND: np.ndarray
) -> None:
    together = tiny_cllm.decode(vectors_ND[:3])
    assert together == tiny_cllm.reconstruct(corpus.texts[:3])
    # alone, and scaled: the same text
    assert tiny_cllm.decode(vectors_ND[1:2] * 3) == together[1:2]
    array = tiny_cllm.decode_array(torch.from_numpy(vectors_ND[:2]))
    assert array.shape == (2, CONTEXT, tiny_cllm.config.width)  # no length is handed over


def test_interpolation_runs_along_the_great_circle(
    tiny_cllm: CLLM, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = corpus.texts[:2]
    seen: list[np.ndarray] = []
    monkeypatch.setattr(tiny_cllm, "decode", lambda x: seen.append(x) or [""] * len(x))
    assert len(tiny_cllm.interpolate(a, b, 5)) == 5
    ends = tiny_cllm.encode([a, b])
    np.testing.assert_allclose(seen[0][[0, -1]], ends, atol=1e-5)
    steps = angle(seen[0][:-1], seen[0][1:])
    np.testing.assert_allclose(steps, steps.mean(), atol=1e-3)


def test_the_null_vector_is_unit(tiny_cllm: CLLM) -> None:
    assert float(tiny_cllm.null_vector().norm().detach()) == pytest.approx(1, abs=1e-5)


# ---- prefixes and bad vectors --------------------------------------------------------


def test_a_prefix_is_lifted_with_zeros(tiny_cllm: CLLM, vectors_ND: np.ndarray) -> None:
    lifted_ND = tiny_cllm.lift(vectors_ND[:, :3])
    assert lifted_ND.shape == (20, 8)
    assert (lifted_ND[:, 3:] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(lifted_ND, axis=1), 1, atol=1e-6)
    whole = np.where(np.arange(8) < 3, vectors_ND, 0)
    assert tiny_cllm.decode(vectors_ND[:1, :3]) == tiny_cllm.decode(whole[:1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(tiny_cllm: CLLM, value: float) -> None:
    vectors = np.ones((3, 8), np.float32)
    vectors[2, 4] = value
    with pytest.raises(InputError, match=r"vector 3 .*not finite"):
        tiny_cllm.decode(vectors)


def test_zero_and_too_long_vectors_are_refused(tiny_cllm: CLLM) -> None:
    with pytest.raises(InputError, match="vector 1 is zero"):
        tiny_cllm.decode(np.zeros((1, 8), np.float32))
    with pytest.raises(InputError, match="9 coordinates, the model takes 8"):
        tiny_cllm.decode(np.ones((1, 9), np.float32))


# ---- saving and loading --------------------------------------------------------------


def test_saved_and_loaded_it_gives_the_same_vectors(
    saved: Path, tiny_cllm: CLLM, corpus: Corpus, vectors_ND: np.ndarray
) -> None:
    again = CLLM.from_pretrained(saved / "model")  # finds its base beside it
    np.testing.assert_allclose(again.encode(corpus.texts[:20]), vectors_ND, atol=1e-6)
    assert again.decode(vectors_ND[:1]) == tiny_cllm.decode(vectors_ND[:1])
    assert again.hash == tiny_cllm.hash
    torch.testing.assert_close(again.null_vector(), tiny_cllm.null_vector())


def test_the_folder_holds_the_cllm_alone_and_no_pickle(saved: Path, tiny_cllm: CLLM) -> None:
    weights = load_file(saved / "model/model.safetensors")
    assert set(weights) == set(tiny_cllm.state_dict())
    assert all(name.split(".")[0] in ("codec", "mean", "spread", "null") for name in weights)
    assert {file.name for file in (saved / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def refused(folder: Path, *words: str, base: BaseLM | None = None) -> None:
    with pytest.raises(InputError) as caught:
        CLLM.from_pretrained(folder, base)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(folder), *words):
        assert word in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut short"])
def test_a_missing_or_damaged_file_is_refused(
    run: Path, tiny_base: BaseLM, name: str, how: str
) -> None:
    file = run / "model" / name
    whole = file.read_bytes()
    file.unlink()
    if how != "missing":
        file.write_bytes(b"" if how == "empty" else whole[:-60])
    refused(run / "model", base=tiny_base)


def test_a_missing_or_misshapen_weight_is_refused(run: Path, tiny_base: BaseLM) -> None:
    file = run / "model/model.safetensors"
    weights = load_file(file)
    null = weights.pop("null")
    save_file(weights, file, metadata={"format": "pt"})
    refused(run / "model", "null", "cllm train", base=tiny_base)
    save_file(weights | {"null": null[:4].clone()}, file, metadata={"format": "pt"})
    refused(run / "model", "cllm train", base=tiny_base)


def test_another_class_of_model_is_refused(run: Path) -> None:
    refused(run / "base", "pegasus", "cllm train")


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


def test_a_pickle_is_refused_and_never_loaded(run: Path, tmp_path: Path) -> None:
    (run / "model/model.safetensors").unlink()
    torch.save({"null": Trap(tmp_path / "sprung")}, run / "model/pytorch_model.bin")
    refused(run / "model", "model.safetensors")
    assert not (tmp_path / "sprung").exists()


def test_the_wrong_base_is_refused(run: Path, corpus: Corpus) -> None:
    other = new_tiny_base(corpus, seed=5)
    refused(run / "model", other.hash, "cllm train", base=other)


def test_a_missing_base_is_refused(run: Path) -> None:
    shutil.rmtree(run / "base")
    with pytest.raises(InputError, match="no such folder"):
        CLLM.from_pretrained(run / "model")


def test_without_a_base_it_says_so(tiny_cllm: CLLM) -> None:
    with pytest.raises(InputError, match=r"CLLM\.from_base"):
        CLLM(tiny_cllm.config).encode(["leek soup"])


# ---- the start and training ----------------------------------------------------------


def test_the_start_standardises_the_arrays(tiny_cllm: CLLM, texts: TokenTexts) -> None:
    part = texts.gather(range(len(texts)))
    with torch.no_grad():
        array = tiny_cllm.base.embed(part.ids_BT, part.mask_BT)
        x = tiny_cllm.standardised(array, part.mask_BT)
    assert x.shape == (len(texts), CONTEXT, tiny_cllm.config.width)
    length = int(part.mask_BT.sum(1).min())
    torch.testing.assert_close(x[:, :length].mean(0), torch.zeros(length, 32), atol=1e-3, rtol=0)
    assert float(x[:, :length].std()) == pytest.approx(1, abs=0.1)
    assert (x[:, part.ids_BT.shape[1] :] == 0).all()


def test_training_leaves_the_base_as_it_was(
    new_cllm: New, tiny_base: BaseLM, texts: TokenTexts
) -> None:
    model = new_cllm()
    before = BaseLM(tiny_base.model, tiny_base.tokenizer, "before").hash
    vectors = model.encode_tokens(texts)
    settings = TrainSettings(loop=LoopSettings(lr=1e-2))
    task = Restoring(model, settings, texts)
    engine = Torch(task.module, settings.loop)
    for step, batch in zip(range(2), texts.batches(8, seed=0), strict=False):
        train_step(task, batch, step, engine, lr=1e-2)
    assert BaseLM(tiny_base.model, tiny_base.tokenizer, "after").hash == before
    assert np.abs(model.encode_tokens(texts) - vectors).max() > 1e-3
    assert all(weight.grad is None for weight in tiny_base.model.parameters())


# ---- sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "dim"), [(80, 2), (80, 3), (80, 100), (80, 2559), (80, 2560), (256, 4096)]
)
def test_any_dim_up_to_the_array_builds(
    tiny_base: BaseLM, context: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # making large matrices orthogonal takes seconds, and shapes do not depend on it
    monkeypatch.setattr(torch.nn.init, "orthogonal_", lambda weight, gain=1.0: weight)
    model = CLLM.from_base(tiny_base, context=context, dim=dim)
    with torch.inference_mode():
        array = torch.randn(2, context, 32)
        vectors = model.encode_array(array, torch.ones(2, context, dtype=torch.bool))
        assert vectors.shape == (2, dim)
        assert model.decode_array(vectors).shape == array.shape


def test_a_dim_beyond_the_array_is_refused(tiny_base: BaseLM) -> None:
    with pytest.raises(InputError, match="smaller dim"):
        CLLM.from_base(tiny_base, context=10, dim=321)


def test_a_context_of_8192_folds_to_eight_coordinates(tiny_base: BaseLM) -> None:
    model = CLLM.from_base(tiny_base, context=8192, dim=8)
    with torch.inference_mode():
        array = torch.randn(1, 8192, 32)
        vectors = model.encode_array(array, torch.ones(1, 8192, dtype=torch.bool))
        assert vectors.shape == (1, 8)
        assert model.decode_array(vectors).shape == array.shape


def test_no_layer_grows_faster_than_the_tokens(tiny_base: BaseLM) -> None:
    """Attention scores a token: bounded by the window, at every level and context."""
    for context in (512, 2048, 8192):
        model = CLLM.from_base(tiny_base, context=context, dim=8, window=64)
        scores = 0
        shape = (context, 32)
        for layer in list(model.codec.encoder)[:-1]:
            tokens = shape[0]
            if any(hasattr(m, "window") for m in layer[0]):
                scores += tokens * min(tokens, 64)
            shape = layer[1].new
        assert scores <= 64 * context


@pytest.mark.parametrize("form", ["mirrored", "pooled", "direct"])
def test_every_form_is_a_whole_model(new_cllm: New, corpus: Corpus, form: str) -> None:
    model = new_cllm(form=form)
    vectors = model.encode(corpus.texts[:1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(model.decode(vectors)) == 1
    assert model.parameters_count == sum(w.numel() for w in model.parameters())


def test_the_configuration_tells_the_shape(saved: Path) -> None:
    config = json.loads((saved / "model/config.json").read_text())
    assert config["model_type"] == "cllm"
    assert (config["dim"], config["context"], config["form"]) == (8, CONTEXT, "mirrored")
