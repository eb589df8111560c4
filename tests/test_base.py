"""The frozen base LLM in its three families."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cllm.base import BaseLM, Generation
from cllm.batches import TokenTexts
from cllm.errors import InputError

# Shapes: B texts, T tokens, M memory positions, H width.
ROWS = [[5, 6, 7, 8, 1], [9, 1], [40, 41, 42, 43, 44, 45, 1]]


@pytest.fixture(params=["tiny_base", "tiny_t5", "tiny_bart"])
def base(request: pytest.FixtureRequest) -> BaseLM:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def saved(tiny_base: BaseLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny_base.save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "base"))


def padded(base: BaseLM, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    names = [str(i) for i in range(len(rows))]
    batch = TokenTexts.of(names, rows, base.pad, context=99).gather(range(len(rows)))
    return batch.ids_BT, batch.mask_BT


def damaged(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# ---- wrapping ------------------------------------------------------------------------


def test_embeddings_have_the_width_and_ignore_padding(base: BaseLM) -> None:
    ids_BT, mask_BT = padded(base, ROWS)
    array_BTH = base.embed(ids_BT, mask_BT)
    assert array_BTH.shape == (3, 7, base.width)
    alone_BTH = base.embed(*padded(base, ROWS[:1]))
    torch.testing.assert_close(array_BTH[0, :5], alone_BTH[0], atol=1e-5, rtol=1e-4)


def test_cross_entropy_is_the_models_own_loss(base: BaseLM) -> None:
    ids_BT, mask_BT = padded(base, ROWS)
    array_BTH = base.embed(ids_BT, mask_BT)
    nats_BT = base.cross_entropy(array_BTH, ids_BT, mask_BT, mask_BT)
    assert nats_BT.shape == ids_BT.shape
    assert (nats_BT[~mask_BT] == 0).all()
    labels_BT = ids_BT.masked_fill(~mask_BT, -100)
    own = base.model(input_ids=ids_BT, attention_mask=mask_BT.long(), labels=labels_BT).loss
    torch.testing.assert_close(nats_BT.sum() / mask_BT.sum(), own, atol=1e-5, rtol=1e-5)


def test_masked_memory_does_not_count_and_unmasked_does(base: BaseLM) -> None:
    ids_BT, mask_BT = padded(base, ROWS[:1])
    array_BTH = base.embed(ids_BT, mask_BT)
    strong_BTH = 30 * torch.randn(1, 3, base.width, generator=torch.Generator().manual_seed(0))
    longer_BTH = torch.cat([array_BTH, strong_BTH], 1)
    ones = torch.ones(1, 3, dtype=torch.bool)
    masked = base.cross_entropy(longer_BTH, ids_BT, mask_BT, torch.cat([mask_BT, ~ones], 1))
    short = base.cross_entropy(array_BTH, ids_BT, mask_BT, mask_BT)
    torch.testing.assert_close(masked, short, atol=1e-5, rtol=1e-5)
    assert not torch.equal(base.cross_entropy(longer_BTH, ids_BT, mask_BT), short)


def test_nothing_of_it_is_trained(base: BaseLM) -> None:
    assert not any(weight.requires_grad for weight in base.model.parameters())
    assert not base.model.training
    assert base.parameters == sum(w.numel() for w in base.model.parameters())


# ---- writing -------------------------------------------------------------------------


def memory_of(base: BaseLM) -> torch.Tensor:
    return base.embed(*padded(base, [ROWS[0], ROWS[2][:5]]))


def push(base: BaseLM, token: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `token` the likeliest everywhere."""
    head = base.model.get_output_embeddings()
    plain = head.forward
    bias_V = torch.zeros(base.vocabulary).index_fill_(0, torch.tensor([token]), 1e3)
    monkeypatch.setattr(head, "forward", lambda x: plain(x) + bias_V)


def test_writing_stops_at_the_end_token(base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    push(base, base.eos, monkeypatch)
    assert base.write(memory_of(base), 12) == [[base.eos], [base.eos]]


def test_writing_stops_at_the_limit_and_adds_no_end_token(
    base: BaseLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(base, 9, monkeypatch)  # for ever the same: a hub model's no-repeat rule would forbid it
    assert base.write(memory_of(base), 12) == [[9] * 12] * 2


def test_writing_beyond_the_positions_is_cut_there(
    tiny_bart: BaseLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(tiny_bart, 9, monkeypatch)
    rows = tiny_bart.write(memory_of(tiny_bart), 10_000)
    assert [len(row) for row in rows] == [tiny_bart.limit - 1] * 2


def test_greedy_writing_takes_the_likeliest_next_token(base: BaseLM) -> None:
    memory_BMH = memory_of(base)
    rows = base.write(memory_BMH, 6)
    logits_BTV = base.logits(memory_BMH, torch.tensor([rows[0]]).expand(2, -1))
    assert logits_BTV[0].argmax(-1).tolist() == rows[0]


def test_beams_find_nothing_less_likely(base: BaseLM) -> None:
    memory_BMH = memory_of(base)

    def nats(rows: list[list[int]]) -> torch.Tensor:
        ids_BT, mask_BT = padded(base, rows)
        return base.cross_entropy(memory_BMH, ids_BT, mask_BT).sum(1) / mask_BT.sum(1)

    searched = nats(base.write(memory_BMH, 5, Generation(beams=8)))
    assert (searched <= nats(base.write(memory_BMH, 5)) + 1e-4).all()


def test_sampling_follows_the_seed_and_the_temperature(base: BaseLM) -> None:
    def sampled(seed: int, **how: float) -> list[list[int]]:
        torch.manual_seed(seed)
        return base.write(memory_of(base), 8, Generation(sample=True, **how))

    assert sampled(0) == sampled(0)
    assert sampled(0) != sampled(1)
    greedy = base.write(memory_of(base), 8)
    assert sampled(0, temperature=1e-4) == greedy
    assert sampled(0, top_p=1e-6) == greedy


# ---- text and tokens -----------------------------------------------------------------


def test_tokens_end_with_the_end_token_and_are_not_cut(tiny_base: BaseLM) -> None:
    long = "leek " * 500
    rows = tiny_base.tokenize([long, ""])
    assert rows[0][-1] == tiny_base.eos
    assert len(rows[0]) > 400
    assert rows[1] == [tiny_base.eos]
    assert tiny_base.to_text(rows) == [long.strip(), ""]


def test_no_text_is_no_token_row(tiny_base: BaseLM) -> None:
    assert tiny_base.tokenize([]) == []
    assert tiny_base.to_text([]) == []


def test_special_tokens_written_in_a_text_are_text(tiny_base: BaseLM) -> None:
    text = "leek </s> soup <mask> and <pad>"
    rows = tiny_base.tokenize([text])
    assert rows[0].count(tiny_base.eos) == 1
    assert tiny_base.to_text(rows) == [text]


# ---- saving and loading --------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(base: BaseLM, tmp_path: Path) -> None:
    unsaved = BaseLM(base.model, base.tokenizer, "as made").hash
    base.save(tmp_path / "base")
    again = BaseLM.load(tmp_path / "base")
    assert again.hash == unsaved
    assert BaseLM(base.model, base.tokenizer, "after saving").hash == unsaved
    torch.testing.assert_close(memory_of(again), memory_of(base))
    assert again.write(memory_of(base), 6) == base.write(memory_of(base), 6)
    assert again.tokenize(["leek soup"]) == base.tokenize(["leek soup"])


def test_hash_is_the_same_stored_in_half_precision(
    tiny_base: BaseLM, saved: Path, tmp_path: Path
) -> None:
    half = BaseLM.load(saved)
    half.model.half()
    half.save(tmp_path / "half")
    assert (tmp_path / "half/model.safetensors").stat().st_size < 0.6 * (
        saved / "model.safetensors"
    ).stat().st_size
    again = BaseLM.load(tmp_path / "half")
    assert again.model.dtype == torch.float32
    assert again.hash == tiny_base.hash


def test_hash_does_not_depend_on_the_version_that_wrote_it(tiny_base: BaseLM, folder: Path) -> None:
    damaged(folder, transformers_version="5.1.0", dtype="float16")
    assert BaseLM.load(folder).hash == tiny_base.hash


def test_hash_changes_with_a_weight_and_with_the_configuration(
    tiny_base: BaseLM, folder: Path
) -> None:
    damaged(folder, scale_embedding=False)
    assert BaseLM.load(folder).hash != tiny_base.hash
    other = BaseLM.load(folder)
    before = other.hash
    with torch.no_grad():
        next(other.model.parameters())[0, 0] += 0.1
    assert BaseLM(other.model, other.tokenizer, "other").hash != before


# ---- what cannot be loaded -----------------------------------------------------------


def refused(place: Path | str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        BaseLM.load(place)
    message = str(caught.value)
    assert "\n" not in message
    assert str(place) in message
    assert "cllm pretrain" in message
    for word in words:
        assert word in message


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such folder")
    refused("runs/nowhere/base", "no such folder")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut short"])
def test_a_missing_or_damaged_file_is_refused(folder: Path, name: str, how: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if how != "missing":
        (folder / name).write_bytes(b"" if how == "empty" else whole[:-60])
    refused(folder)


def test_a_missing_weight_is_refused_and_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "encoder_attn.k_proj.weight" in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, name)


def test_a_decoder_only_model_is_refused(tiny_base: BaseLM, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=50, n_embd=8, n_layer=1, n_head=1, n_positions=8, bos_token_id=0, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny_base.tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "GPT2Config")


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


def test_a_pickle_is_refused_and_never_loaded(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap(tmp_path / "sprung")}, folder / "pytorch_model.bin")
    refused(folder, "safetensors")
    assert not (tmp_path / "sprung").exists()


def test_mask_tokens_of_other_families(tiny_base: BaseLM) -> None:
    assert tiny_base.mask == tiny_base.tokenizer.convert_tokens_to_ids("<mask>")

    class Sentinels:
        mask_token_id = None
        unk_token_id = 2

        def __init__(self, found: int | None) -> None:
            self.found = found

        def convert_tokens_to_ids(self, token: str) -> int | None:
            return self.found if token == "<extra_id_0>" else None

    other = copy.copy(tiny_base)
    for found, wanted in ((99, 99), (None, 2)):
        other.tokenizer = Sentinels(found)
        assert other.mask == wanted


def test_a_base_whose_links_lead_nowhere_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("../gone/config.json")
    with pytest.raises(InputError, match=r"lead nowhere \(config.json\)"):
        BaseLM.load(str(tmp_path))
