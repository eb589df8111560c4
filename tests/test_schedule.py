from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllm.schedule import COOLING, learning_rate, rises_no_more
from cllm.settings import LoopSettings


@given(
    warmup=st.floats(0, 0.9),
    done=st.floats(0, 1),
    later=st.floats(0, 1),
    lr=st.floats(1e-6, 1.0),
    plateau=st.sampled_from((0.0, 0.2)),
)
def test_the_learning_rate_rises_then_falls_within_its_bounds(
    warmup: float, done: float, later: float, lr: float, plateau: float
) -> None:
    settings = LoopSettings(lr=lr, warmup=warmup, plateau=plateau)
    a, b = (learning_rate(settings, x) for x in sorted((done, later)))
    assert 0.02 * lr * (1 - 1e-9) <= min(a, b) <= max(a, b) <= lr * (1 + 1e-9)
    if max(done, later) < warmup:
        assert a <= b
    if min(done, later) >= warmup:
        assert a >= b
    assert learning_rate(settings, warmup) == pytest.approx(lr)
    assert learning_rate(settings, 1.0) == pytest.approx(0.02 * lr)


def test_where_a_plateau_ends_it_the_rate_falls_in_the_last_fifth_only() -> None:
    settings = LoopSettings(plateau=0.2)
    assert learning_rate(settings, COOLING) == settings.lr
    assert learning_rate(settings, 0.9) < settings.lr
    assert learning_rate(LoopSettings(), COOLING) < 0.2 * settings.lr


def test_a_plateau_is_a_third_of_the_steps_without_a_rise() -> None:
    rising = [(step, -100 + step / 10) for step in range(0, 1000, 100)]
    assert not rises_no_more(rising, 10.0)  # 900 against 600: 30 nats
    assert rises_no_more(rising, 31.0)
    flat = [*rising, *((step, rising[-1][1]) for step in range(1000, 1500, 100))]
    assert rises_no_more(flat, 0.1)
    assert not rises_no_more(rising[:3], 1e9), "three scores say nothing"
