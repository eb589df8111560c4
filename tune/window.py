"""The void window: in which sizes of a vector there are voids, and texts can be written from them.

Too few coordinates and texts fill the space, too many and everything is empty, or nothing that is
decoded from there is a text. Asked of the prefixes of one nested model.

    told = void_window(run, folder, lengths=(4, 8, 16), decodes=100)
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cllm import pipeline
from cllm.files import digest, read_json, replacing, write_json
from cllm.metrics import wilson
from cllm.run import RunFolder
from cllm.voids import CHANCE
from tune.trial import void_facts

LEAST_VALID = 0.5  # of the texts written from voids
KEPT = "window.json"


@dataclass(frozen=True)
class At:
    """What was found at one size; shares are absent where nothing was written."""

    d: int
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
        return significant and self.valid is not None and self.valid >= LEAST_VALID


@dataclass(frozen=True)
class Window:
    """What was found at each size, and the range in which voids stand; None where they nowhere do.

    Sizes within the range that were measured and failed are listed as gaps.
    """

    low: int | None
    high: int | None
    gaps: tuple[int, ...]
    sizes: tuple[At, ...]

    def json(self) -> dict[str, Any]:
        """For the report and `--json`."""
        rows = [asdict(at) | {"stands": at.stands} for at in self.sizes]
        return {"low": self.low, "high": self.high, "gaps": list(self.gaps), "sizes": rows}


def window_of(sizes: Sequence[At]) -> Window:
    """The range of the sizes that stand."""
    standing = [at.d for at in sizes if at.stands]
    if not standing:
        return Window(None, None, (), tuple(sizes))
    low, high = min(standing), max(standing)
    gaps = tuple(at.d for at in sizes if low < at.d < high and not at.stands)
    return Window(low, high, gaps, tuple(sizes))


def void_window(
    run: RunFolder, trained: RunFolder, lengths: Sequence[int], decodes: int, seed: int = 0
) -> Window:
    """Search voids in each prefix of the model that lies in `trained`, and write from them."""
    return window_of([_at(run, trained, k, decodes, seed) for k in lengths])


def _at(run: RunFolder, trained: RunFolder, k: int, decodes: int, seed: int) -> At:
    model = trained.load_model()
    made_from = digest(model.hash, str(k), str(decodes), str(seed))
    folder = RunFolder(trained.path / f"window-{k}")
    kept = folder.path / KEPT
    if not (kept.exists() and read_json(kept)["made_from"] == made_from):
        run.branch(folder.path)
        model.config.void_dim = k  # another model to whom it matters: its hash says so
        with replacing(folder.model) as new:
            model.save_pretrained(new)
            model.base.tokenizer.save_pretrained(new)
            shutil.copy(trained.model / "training.json", new / "training.json")
        folder.note("model", trained.notes()["model"] | {"void_dim": k})
        pipeline.write_latents(folder, folder.load_model(), folder.load_corpus())
        write_json(kept, {"made_from": made_from, "found": void_facts(folder, seed, decodes)})
        shutil.rmtree(folder.latents)
    found = read_json(kept)["found"]
    texts = int(found["void_texts"])
    valid = None if not texts else wilson(round(found["valid"] * texts), texts)
    return At(
        d=k, p_value=found.get("p_value"), radius_ratio=found.get("radius_ratio"),
        voids=int(found["voids"]), texts=texts, valid=valid.mean if valid else None,
        valid_ci=(valid.low, valid.high) if valid else None, yields=found.get("yield"),
    )  # fmt: skip
