"""Presets, and a command's own values in their place."""

from __future__ import annotations

from typing import Any

import pytest

from cllm.errors import InputError
from cllm.settings import describe, overridden, preset


def test_a_preset_without_changes_is_itself() -> None:
    assert overridden("standard", dim=64, seed=3) == preset("standard", dim=64, seed=3)


@pytest.mark.parametrize(("dim", "prefix"), [(32, 8), (64, 8), (12, 6)])
def test_training_for_voids_gives_one_prefix_the_opening_of_texts(dim: int, prefix: int) -> None:
    train = overridden("quick", dim=dim, aim="voids").train
    assert train.prefixes == (prefix,)
    assert train.front > 0
    assert train.swaps > 0
    assert train.loop == overridden("quick", dim=dim).train.loop


def test_single_settings_go_over_the_aim() -> None:
    assert overridden("quick", aim="voids", changes=["train.swaps=0"]).train.swaps == 0


def test_voids_need_a_prefix() -> None:
    for own in ({"dim": 6}, {"nested": "off"}):
        with pytest.raises(InputError, match="--aim voids needs a nested vector"):
            overridden("quick", aim="voids", **own)


def test_an_unknown_aim_is_named() -> None:
    with pytest.raises(InputError, match="--aim is 'moon'; it must be text or voids"):
        overridden("quick", aim="moon")


def test_base_and_model_fit_into_three_hours_with_the_standard_preset() -> None:
    s = preset("standard")
    trained = s.base.loop.seconds + s.base.low_rank_loop.seconds + s.train.loop.seconds
    assert 0 < trained <= 3 * 3600


def test_the_bases_time_is_shared_by_its_stages() -> None:
    base = overridden("quick", base_seconds=100).base
    assert (base.loop.seconds, base.low_rank_loop.seconds) == (50, 50)


def test_steps_lift_the_time_limit() -> None:
    s = overridden("quick", steps=7, base_steps=5)
    assert (s.train.loop.steps, s.train.loop.seconds) == (7, 0)
    assert (s.base.loop.steps, s.base.low_rank_loop.steps) == (5, 5)
    assert overridden("quick", steps=7, seconds=9.0).train.loop.seconds == 9
    assert "7 steps" in describe(s)


def test_any_field_can_be_set() -> None:
    s = overridden(
        "quick",
        nested="off",
        changes=["train.cluster_weight=0.25", "base.context=256", "model.form=direct", "ideas=7"],
    )
    assert s.train.cluster_weight == 0.25
    assert s.base.context == 256
    assert s.model.form == "direct"
    assert s.ideas == 7
    assert not s.train.nested


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.cluster=1", "cluster_weight"),
        ("nothing.at.all=1", "base, "),
        ("train=1", "no setting 'train'"),
        ("train.loop=1", "no setting 'train.loop'"),
        ("train.nested.more=1", "no setting"),
        ("train.loop.lr", "has no '='"),
        ("train.loop.lr=fast", "train.loop.lr"),
        ("train.loop.lr=-1", "train.loop.lr"),
        ("model.form=round", "model.form"),
        ("void_dim=64", "void_dim is 64"),
        ("train.prefixes=[32]", "train.prefixes has 32"),
        ("void_dim=1", "void_dim is 1"),
        ("base.rank=1", "base.rank is 1"),
        ("train.nested.x.y=1", "no setting 'train.nested.x.y'"),
        ("seed=5", "--seed"),
        ("train.loop.seed=5", "--seed"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(change: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        overridden("quick", changes=[change])


@pytest.mark.parametrize(
    ("own", "told"),
    [({"dim": 1}, "dim"), ({"nested": "maybe"}, "--nested"), ({"form": "x"}, "form")],
)
def test_an_own_value_that_does_not_fit_is_refused(own: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        overridden("quick", **own)


def test_adapting_takes_a_gentler_rate_unless_told() -> None:
    base = overridden("quick", adapting=True).base
    assert base.loop.lr == base.low_rank_loop.lr == 2e-4
    told = overridden("quick", adapting=True, changes=["base.loop.lr=1e-3"]).base
    assert told.loop.lr == 1e-3


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(InputError, match="quick, standard, full"):
        overridden("huge")
