"""What a training will need: counted on real modules, and told in one object."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cllm.base import BaseLM
from cllm.errors import InputError
from cllm.model import CLLM
from cllm.run import SHIPPED, RunFolder
from cllm.settings import ModelSettings
from cluster.plan import T5_SHAPES, Job, count, plan, skeleton, states_bytes

JOB = Job("google-t5/t5-small", texts=1e6, gpus=8, gpu="h100", tokens=64)


@pytest.mark.parametrize(
    ("name", "published"),
    [("google-t5/t5-small", 60.5e6), ("google-t5/t5-large", 737.7e6)],
)
def test_parameters_are_those_that_were_published(name: str, published: float) -> None:
    assert skeleton(replace(JOB, base=name)).base.parameters == pytest.approx(published, rel=1e-2)


def test_every_known_shape_can_be_built() -> None:
    sizes = [skeleton(replace(JOB, base=name)).base.parameters for name in T5_SHAPES]
    assert min(sizes) > 5e7
    assert max(sizes) > 1e10


def test_a_folder_can_be_planned() -> None:
    told = plan(replace(JOB, base=str(SHIPPED / "base"), tokens=80))
    assert told["parameters"]["base_frozen"] == RunFolder(SHIPPED).load_base().parameters


def test_flops_are_about_two_a_weight_and_token(tiny_base: BaseLM) -> None:
    """Forward 2 a weight and token; the frozen decoder's backward 2 more, what is trained 4."""
    model = skeleton(JOB)
    counted = count(model, 64)
    encoder = sum(p.numel() for n, p in model.base.encoder.named_parameters() if "block" in n)
    assert counted["encoder_flops"] == pytest.approx(2 * encoder * 64, rel=0.25)
    assert counted["embed_flops"] > counted["encoder_flops"]
    assert counted["step_flops"] > 3 * counted["encoder_flops"]


def test_counting_agrees_with_a_real_step(tiny_t5: BaseLM) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    real = CLLM.from_base(tiny_t5, context=16, dim=8)
    ids, mask = torch.ones(1, 16, dtype=torch.long), torch.ones(1, 16, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            array = tiny_t5.embed(ids, mask)
        memory = real.decode_array(real.encode_array(array, mask))
        tiny_t5.cross_entropy(memory, ids, mask).sum().backward()
    with torch.device("meta"):
        from transformers import AutoModelForSeq2SeqLM

        base = BaseLM(AutoModelForSeq2SeqLM.from_config(tiny_t5.model.config), None, "planned")
        base.__dict__["hash"] = ""
        planned = CLLM.from_base(base, context=16, dim=8)
    assert count(planned, 16)["step_flops"] == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_recomputing_keeps_less() -> None:
    whole = count(skeleton(JOB), 64)
    less = count(skeleton(JOB), 64, checkpointing=True)
    assert less["activation_bytes"] < 0.5 * whole["activation_bytes"]
    assert less["step_flops"] > whole["step_flops"]


def test_higher_stages_hold_less() -> None:
    found = [states_bytes(10**9, 10**7, 64, stage) for stage in range(4)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 16e9


def test_twice_the_gpus_take_half_the_time_at_the_same_cost() -> None:
    one, two = plan(replace(JOB, gpus=64)), plan(replace(JOB, gpus=128))
    assert two["hours"]["training"] == pytest.approx(one["hours"]["training"] / 2, rel=0.02)
    assert two["cost_dollars"] == pytest.approx(one["cost_dollars"], rel=0.02)


def test_the_network_between_machines_costs_more_than_the_link_within_one() -> None:
    shares = [plan(replace(JOB, gpus=n))["communication_share"] for n in (1, 8, 16)]
    assert shares[0] == 0
    assert 0 < shares[1] < shares[2] < 1


def test_every_gpu_counts(tmp_path: Path) -> None:
    assert states_bytes(10**9, 10**7, 12, 3) == pytest.approx(
        states_bytes(10**9, 10**7, 4, 3) / 3, rel=0.2
    )
    prices = tmp_path / "gpus.yaml"
    prices.write_text("mine: {memory_gib: 80}\nstorage: {dollars_per_gb_month: 0.02}\n")
    with pytest.raises(InputError, match=r"'mine' in .* has no bf16_tflops, dollars_per_hour"):
        plan(replace(JOB, gpu="mine", prices=prices))


def test_storage_grows_with_texts_and_width() -> None:
    small, large = plan(JOB), plan(replace(JOB, texts=1e9, shape=ModelSettings(dim=64)))
    assert small["storage_gb"]["token_matrices"] == pytest.approx(1e6 * 64 * 512 * 2 / 1e9)
    assert large["storage_gb"]["milvus"] > 1000 * small["storage_gb"]["milvus"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": "nobody/knows-this"}, "the shape of 'nobody/knows-this' is unknown"),
        ({"gpu": "abacus"}, "no GPU 'abacus'.*h100"),
        ({"texts": 0}, "must be positive"),
        ({"prices": Path("/nowhere.yaml")}, "cannot be read"),
    ],
)
def test_what_cannot_be_planned_is_said(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan(replace(JOB, **change))
