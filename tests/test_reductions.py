"""The reduction plan: the article's figure, and its laws over the whole domain."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cllm.errors import InputError
from cllm.reductions import Reduction, plan_reductions


def sizes(tokens: int, width: int, dim: int) -> list[int]:
    return [step.size for step in plan_reductions(tokens, width, dim)]


def test_article_figure() -> None:
    want = [786_432, 49_152, 12_288, 3_072, 768, 192, 96, 48, 24, 12, 10, 8]
    assert sizes(8192, 1536, 8) == want
    assert plan_reductions(8192, 1536, 8)[0] == Reduction(786_432, (512, 1536))
    assert plan_reductions(8192, 1536, 8)[4] == Reduction(768, (1, 768))  # 2 tokens, factor 4


def test_small_cases_by_hand() -> None:
    assert plan_reductions(4, 8, 32) == []
    assert plan_reductions(3, 11, 32) == [Reduction(32, (1, 32))]  # a gap of 1: one subtraction
    assert sizes(1, 35, 32) == [33, 32]  # a gap of 3: the larger subtraction first
    assert plan_reductions(4, 16, 32) == [Reduction(32, (1, 32))]  # at dim: one row
    # 3 tokens halve to 2 with one padded; 1 token would be too few values.
    assert plan_reductions(3, 100, 150) == [
        Reduction(200, (2, 100)),
        Reduction(175, (1, 175)),
        Reduction(150, (1, 150)),
    ]


@st.composite
def domain(draw: st.DrawFn) -> tuple[int, int, int]:
    tokens = draw(st.integers(1, 16_384))
    width = draw(st.integers(1 if tokens > 1 else 2, 4_096))
    return tokens, width, draw(st.integers(2, min(4_096, tokens * width)))


@settings(max_examples=1000, deadline=None)
@given(domain())
@example((16_384, 4_096, 2))
@example((16_384, 1, 4_096))
@example((17, 4_096, 4_096))
@example((2, 1, 2))
def test_plan_laws(case: tuple[int, int, int]) -> None:
    tokens, width, dim = case
    steps = plan_reductions(tokens, width, dim)
    shapes = [(tokens, width), *(step.shape for step in steps)]
    values = [t * w for t, w in shapes]
    assert values[1:] == [step.size for step in steps]
    assert values == sorted(set(values), reverse=True)  # strictly falling
    assert values[-1] == dim
    assert bool(steps) == (tokens * width > dim)
    assert not steps or steps[-1].shape == (1, dim)
    for (t, w), (less_t, less_w) in pairwise(shapes):
        assert less_t <= t
        assert less_t == 1 or less_w == w  # the sequence first, then the width


@given(st.integers(0, 14), st.integers(0, 12), st.integers(2, 4_096))
def test_sizes_follow_the_rule_where_every_axis_divides(a: int, b: int, dim: int) -> None:
    values = 2 ** (a + b)
    dim = min(dim, values)
    if dim < 2:
        return
    got = iter(sizes(2**a, 2**b, dim))
    for factor, least in ((16, max(32_768, dim)), (4, 16 * dim), (2, dim)):
        while values // factor >= least:
            values //= factor
            assert next(got) == values
    assert list(got)[-1:] == ([dim] if values > dim else [])


@given(st.integers(0, 300), st.integers(2, 4_096))
def test_subtractions_are_equal_or_the_larger_comes_first(gap: int, dim: int) -> None:
    gap = min(gap, dim - 2)  # less than a halving, padded or not
    steps = [dim + gap, *sizes(1, dim + gap, dim)]
    taken = [a - b for a, b in pairwise(steps)]
    assert sum(taken) == gap
    assert len(taken) == min(gap, 2)
    assert taken == sorted(taken, reverse=True)
    assert not taken or gap == 1 or max(taken) - min(taken) <= 1


@pytest.mark.parametrize(
    ("case", "named"),
    [((0, 8, 2), "tokens is 0"), ((8, 0, 2), "width is 0"), ((8, 8, 1), "dim is 1"),
     ((4, 4, 17), "dim is 17, more than the 4 tokens x 4 width = 16")],
)  # fmt: skip
def test_outside_the_domain(case: tuple[int, int, int], named: str) -> None:
    with pytest.raises(InputError, match=named):
        plan_reductions(*case)
