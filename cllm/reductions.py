"""Plan how an array of tokens x width values is collapsed to one vector, step by step.

`plan_reductions(8192, 1536, 8)` gives the source article's sizes: 786432, 49152, 12288, 3072,
768, 192, 96, 48, 24, 12, 10, 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from cllm.errors import InputError

_LEAST_AFTER_16 = 32_768  # values
_LEAST_AFTER_4 = 16  # values per coordinate of the vector


@dataclass(frozen=True)
class Reduction:
    """One step: `size` values are left, laid out as `shape` = (tokens, width).

    size == tokens * width always. Where an axis does not divide by the factor it is padded
    with zeros first, so `size` is then a little more than the last size over the factor; the
    padding is dropped within the step and never counted in the result.
    """

    size: int
    shape: tuple[int, int]


def plan_reductions(tokens: int, width: int, dim: int) -> list[Reduction]:
    """The steps from (tokens, width) to (1, dim); sizes fall strictly and end with `dim`.

    Divide by 16 while the result keeps at least 32,768 values (and `dim`), then by 4 while it
    keeps at least 16 * dim, then by 2 while it keeps at least dim; the rest goes in two
    subtractions as equal as integers allow, the larger first (one where the gap is 1). The
    sequence axis shrinks first, rounded up; where fewer tokens than the factor remain, they
    become 1 and the rest of the factor is taken from the width. A step that reaches `dim`, and
    every subtraction, lays its values out as one row. "The result" counts padding: 5 values for
    dim 3 are one halving (of 6). Empty where tokens * width == dim.

    Defined for tokens >= 1, width >= 1, 2 <= dim <= tokens * width; else InputError.
    """
    _check_domain(tokens, width, dim)
    steps: list[Reduction] = []
    shape = (tokens, width)
    floors = ((16, max(_LEAST_AFTER_16, dim)), (4, _LEAST_AFTER_4 * dim), (2, dim))
    for factor, least in floors:
        while shape[0] * shape[1] > dim:
            smaller = _divide(shape, factor)
            size = smaller[0] * smaller[1]
            if size < least:
                break
            shape = (1, dim) if size == dim else smaller
            steps.append(Reduction(size, shape))
    gap = shape[0] * shape[1] - dim
    between = [Reduction(dim + gap // 2, (1, dim + gap // 2))] if gap > 1 else []
    last = [Reduction(dim, (1, dim))] if gap else []
    return steps + between + last


def _divide(shape: tuple[int, int], factor: int) -> tuple[int, int]:
    tokens, width = shape
    if tokens >= factor:
        return -(-tokens // factor), width
    return 1, -(-tokens * width // factor)


def _check_domain(tokens: int, width: int, dim: int) -> None:
    for name, value, least in (("tokens", tokens, 1), ("width", width, 1), ("dim", dim, 2)):
        if value < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
    if dim > tokens * width:
        raise InputError(
            f"dim is {dim}, more than the {tokens} tokens x {width} width = {tokens * width} "
            "values to collapse; choose a smaller dim"
        )
