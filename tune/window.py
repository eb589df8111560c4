"""The void window: in which sizes of a vector there are voids, and texts can be written from them.

Too few coordinates and texts fill the space, too many and everything is empty, or nothing that is
decoded from there is a text. Asked of models of one size each: a prefix is decoded with the help of
the other coordinates, which says nothing of a vector as short as it.

    told = window_of([found_at(trained, decodes=100, seed=0) for trained in models])
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock

from cllm import pipeline
from cllm.files import digest, read_json, write_json
from cllm.run import RunFolder
from cllm.voids import CHANCE
from tune.trial import METHOD, void_facts

MOST_COORDINATES = 32  # of a model that voids are sought in: among 64 one search takes half an hour
LEAST_VALID = 0.5  # of the texts written from voids, by the lower bound of the 95 % interval
KEPT = "window.json"


@dataclass(frozen=True)
class At:
    """What was found at one size of one model; shares are absent where nothing was written.

    `valid_ci`: places are resampled, as texts of one place are not independent.
    """

    d: int
    seed: int
    p_value: float | None
    radius_ratio: float | None
    voids: int
    texts: int
    valid: float | None
    valid_ci: tuple[float, float] | None
    yields: float | None

    @property
    def stands(self) -> bool:
        """Voids that are significant, and decode to valid text."""
        significant = self.voids > 0 and self.p_value is not None and self.p_value <= CHANCE
        return significant and self.valid_ci is not None and self.valid_ci[0] >= LEAST_VALID


@dataclass(frozen=True)
class Window:
    """What was found at each size, and the longest run of sizes at which voids stand, if any.

    With several models they stand where they do in more than half of them. `elsewhere`: sizes
    outside of the run at which they stand, too. Each size is a test of its own: p is not corrected
    for their number, which 19 null clouds could not tell.
    """

    low: int | None
    high: int | None
    elsewhere: tuple[int, ...]
    sizes: tuple[At, ...]

    def json(self) -> dict[str, Any]:
        """For the report and `--json`."""
        rows = [asdict(at) | {"stands": at.stands} for at in self.sizes]
        return {"low": self.low, "high": self.high, "elsewhere": list(self.elsewhere),
                "sizes": rows}  # fmt: skip


def window_of(sizes: Sequence[At]) -> Window:
    """The longest run of sizes that stand; of equally long ones the first."""
    of: dict[int, list[bool]] = {}
    for at in sorted(sizes, key=lambda at: at.d):
        of.setdefault(at.d, []).append(at.stands)
    runs: list[list[int]] = [[]]
    for d, stand in of.items():
        if sum(stand) > len(stand) / 2:
            runs[-1].append(d)
        else:
            runs.append([])
    run = max(runs, key=len)
    if not run:
        return Window(None, None, (), tuple(sizes))
    elsewhere = tuple(d for other in runs if other is not run for d in other)
    return Window(run[0], run[-1], elsewhere, tuple(sizes))


def found_at(trained: RunFolder, decodes: int, seed: int) -> At:
    """Search voids among the whole vectors of a model of one size, and write from them."""
    with FileLock(trained.path / "lock"):  # as where it is trained
        return _found(trained, decodes, seed)


def _found(trained: RunFolder, decodes: int, seed: int) -> At:
    model, kept = trained.load_model(), trained.path / KEPT
    made_from = digest(model.hash, trained.measured_by, str(decodes), str(seed), str(METHOD))
    if not (kept.exists() and read_json(kept)["made_from"] == made_from):
        pipeline.write_latents(trained, model, trained.load_corpus())
        write_json(
            kept, {"made_from": made_from, "found": void_facts(trained, seed, decodes, quick=False)}
        )
        shutil.rmtree(trained.latents)
    found = read_json(kept)["found"]
    texts = int(found["void_texts"])
    return At(
        d=model.config.dim, seed=seed, p_value=found.get("p_value"),
        radius_ratio=found.get("radius_ratio"), voids=int(found["voids"]), texts=texts,
        valid=found.get("valid"),
        valid_ci=(found["valid_low"], found["valid_high"]) if texts else None,
        yields=found.get("yield"),
    )  # fmt: skip
