from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cllm.batches import TokenTexts
from cllm.errors import InputError
from cllm.model import CLLM
from cllm.run import SHIPPED, RunFolder
from studies.capacity import RIGHT, capacity, most_carried, optimised, parser


def test_an_optimised_vector_carries_more_than_the_one_it_began_as(
    new_cllm: Callable[..., CLLM], texts: TokenTexts
) -> None:
    model = new_cllm()
    model.base.model.requires_grad_(False)
    batch = texts.gather(range(4))
    start_BD = torch.from_numpy(model.encode_tokens(texts)[:4])

    def read(vectors_BD: torch.Tensor) -> torch.Tensor:
        return model.decode_array(torch.nn.functional.normalize(vectors_BD, dim=-1))

    kept_B, nats_B = optimised(model, batch, start_BD, read, steps=0)
    better_B, fewer_B = optimised(model, batch, start_BD, read, steps=100)
    assert (better_B >= kept_B).all()
    assert float(fewer_B.sum()) < float(nats_B.sum())
    assert all(weight.grad is None for weight in model.base.model.parameters())


def options(*words: str) -> Any:
    return parser().parse_args(list(words))


def test_lengths_beyond_the_context_are_refused() -> None:
    run = RunFolder(SHIPPED)
    with pytest.raises(InputError, match="--lengths must be 2 to 80"):
        capacity(run.load_model(), run, options("--lengths", "500"))


def test_the_longest_carried_texts_come_after_shorter_ones_that_are_carried_too() -> None:
    told = [{"tokens": n, "slot": {"carried": c}} for n, c in ((4, 1.0), (8, 0.5), (16, 0.4))]
    assert most_carried(told, "slot") == 8
    assert most_carried([*told, {"tokens": 32, "slot": {"carried": 1.0}}], "slot") == 8
    assert most_carried(told[2:], "slot") == 0


@pytest.mark.chain
def test_short_texts_are_carried_and_random_tokens_are_not() -> None:
    run = RunFolder(SHIPPED)
    told = capacity(
        run.load_model(), run, options("--texts", "6", "--lengths", "4", "48", "--steps", "150")
    )
    of_texts, of_random = told["of_texts"], told["of_random"]
    assert [one["tokens"] for one in of_texts] == [4, 48]
    assert of_texts[0]["slot"]["accuracy"] > of_random[0]["slot"]["accuracy"]
    whole = told["whole_texts"]
    assert whole["encoder"]["gain_nats"] > 0, "the shipped model restores its texts"
    gap = whole["decoder"]["gain_nats"] - whole["encoder"]["gain_nats"]
    assert whole["gap_nats"] == pytest.approx(gap, abs=1e-4)
    assert whole["gap_ci"][0] <= whole["gap_nats"] <= whole["gap_ci"][1]
    assert of_texts[1]["decoder"]["accuracy"] >= of_texts[1]["encoder"]["accuracy"]
    assert of_random[1]["slot"]["accuracy"] < RIGHT
    assert told["most_random"]["encoder"] == 0, "it was never trained on such"
