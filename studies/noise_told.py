"""What the noise embeddings come to, claim by claim, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]
KEYS = "100000"  # the number of keys that the speed is told of


def in_words(told: Facts) -> list[str]:
    """A line for each thing that the source says or hopes."""
    bits, mapped, words = told["stored"], told["mapped"], told["words"]
    lines = [
        f"Seen texts come back ({bits['seen']['recovered']:.1%} of {bits['seen']['texts']}), as do "
        f"unseen ones that are searched anew ({bits['unseen']['recovered']:.1%}): it is a code.",
        f"It stores a token of unseen texts in {_a_token(bits['unseen'])} bits; deflate with the "
        f"training texts as its dictionary {_a_token(bits[_DEFLATE])}, pairs of tokens counted "
        f"{_a_token(bits['pairs of tokens counted'])}, any of the vocabulary alike "
        f"{bits['log2_vocabulary']:.2f}.",
    ]
    if "cllm" in bits:
        one = bits["cllm"]
        lines.append(
            f"A CLLM restores {one['recovered']:.1%} of them from {one['bits_a_coordinate']} bits "
            f"a coordinate, {_a_token(one['vector'])} bits a token; {_a_token(one['corrected'])} "
            "with all that is wrong corrected."
        )
    if KEYS in told["looked_up"]:
        speed = told["looked_up"][KEYS]
        lines.append(
            f"A look-up among 100,000 keys is {speed['buckets over scan']:.0f} times as fast as a "
            f"scan ({speed['buckets, one by one over scan']:.0f} one by one), and "
            f"{speed['buckets over searchsorted']:.2f} times as fast as the nearest number by "
            "numpy.searchsorted."
        )
    by = max(("mean", "mean and variance", "noise"),
             key=lambda by: mapped[f"unseen, noise by {by}"]["tokens"])  # fmt: skip
    noise, target = (mapped[f"unseen, {what} by {by}"] for what in ("noise", "target"))
    lines.append(
        f"New first parts are mapped to {noise['exact']:.1%} right second ones (tokens in place "
        f"{_share(noise['tokens'], noise['tokens_ci'])}) by the example of the nearest {by}; "
        "repeating that example's own second part gives "
        f"{_share(target['tokens'], target['tokens_ci'])}, any example's "
        f"{mapped['unseen, target of any']['tokens']:.3f}."
    )
    f1 = {name: _share(one["mean"], one["ci"]) for name, one in words["f1"].items()}
    lines.append(
        f"Words are found in unseen characters with F1 {f1['noise']}, where cutting everywhere has "
        f"{f1['every place']}, no cut 0, and counted pairs of characters "
        f"{f1['pairs of characters counted']}; the mean of "
        f"{words['windows whose mean is known']:.1%} of windows is known: it works as a look-up of "
        "the same characters."
    )
    both, alone = "noise, then graph tokens", "graph tokens alone"
    less = words[f"{both} − {alone}"]
    lines.append(
        f"With graph tokens after it {f1[both]}; these alone {f1[alone]}, so that the noise before "
        f"them adds {_share(less['mean'], less['ci'])}."
    )
    return lines


_DEFLATE = "deflate, training texts as its dictionary"


def _a_token(one: Facts) -> str:
    low, high = one["bits_a_token_ci"]
    return f"{one['bits_a_token']:.2f} [{low:.2f}, {high:.2f}]"


def _share(mean: float, ci: tuple[float, float]) -> str:
    return f"{mean:.3f} [{ci[0]:.3f}, {ci[1]:.3f}]"
