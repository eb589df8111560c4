"""What an editor of restored arrays buys and costs: `cllm study editor --json`.

A trained model is given an editor, over several seeds; then the void arm writes with it and without
it, at equal decodes and from the same draws, with places in voids decoded as they are and with
correction as usual. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cllm.artefacts import settings_of
from cllm.console import one_line_errors, set_up_logging
from cllm.editor import SHARE, fit_editor
from cllm.errors import InputError
from cllm.evaluate import nats_without
from cllm.files import digest, read_json, write_json
from cllm.losses import text_nats
from cllm.metrics import of_few
from cllm.model import CLLM
from cllm.pretrain import token_texts
from cllm.run import SHIPPED_VOIDS, RunFolder
from cllm.settings import EDITS, RunSettings
from cllm.training_texts import TrainingTexts
from cllm.writing import checker_of
from studies.correction import PARTS, counts_of, made_of, ratio_of
from studies.void_arm import VoidArm

log = logging.getLogger(__name__)

METHOD = 4  # raised when the same would be measured otherwise
WAYS = ("none", "usual")  # of correction
TIMED = 64  # vectors decoded to say what it costs
TURNS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Train editors that are missing, write, count, and print one JSON object."""
    o = parser().parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        if min(o.seeds, o.steps) < 1 or o.decodes < 2:
            raise InputError("--seeds and --steps must be 1 or more, --decodes 2 or more")
        run = RunFolder(o.run)
        rows = [row for seed in range(o.seeds) for row in rows_of(run, seed, o)]
        told = summary(rows) | {"decodes": o.decodes, "steps": o.steps, "seeds": o.seeds}
        write_json(o.out / "editor.json", told)
        print(json.dumps(told))


def parser() -> argparse.ArgumentParser:
    """The study's options."""
    p = argparse.ArgumentParser(
        prog="cllm study editor", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--run", type=Path, default=SHIPPED_VOIDS, help="with a model and its voids")
    p.add_argument("--seeds", type=int, default=3, help="of the editor, and of what is drawn")
    p.add_argument("--steps", type=int, default=500, help="of an editor's training")
    p.add_argument("--decodes", type=int, default=1000, help="of the void arm")
    p.add_argument("--measured", type=int, default=300, help="test texts")
    p.add_argument("--out", type=Path, default=Path("runs/editor"), help="a folder")
    return p


def rows_of(run: RunFolder, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Without and with an editor of this seed: counts of each way, what test texts gain, and ms."""
    o, corpus = options, run.load_trained_corpus()
    plain, edited = run.load_model(), run.load_model()
    if checker_of(corpus) is None and run.find_critic(plain.base) is None:
        raise InputError(
            f"{run.path} has neither a checker nor a critic, so that nobody says what is valid; "
            "`cllm run` makes a critic"
        )
    arm = VoidArm.of(run, plain)
    asked = (seed, o.steps, o.decodes, o.measured, arm.field.rest, arm.field.least_score, METHOD)
    kept = o.out / f"{digest(*made_of(run, arm), str(asked))}.json"
    if kept.exists():
        return list(read_json(kept)["rows"])
    log.info("an editor, seed %d", seed)
    own = settings_of(run.model, RunSettings)  # as `cllm train --editor` would have trained it
    loop = own.train.loop.model_copy(update={
        "steps": round(o.steps / SHARE), "seconds": 0.0, "seed": seed,
    })  # fmt: skip
    train = own.train.model_copy(update={"loop": loop})
    settings = own.model_copy(update={"train": train, "editor": EDITS, "seed": seed})
    texts = TrainingTexts.of(edited.base, corpus, train, edited.config.context, fitted=False)
    result = fit_editor(edited, texts, settings, o.out / f"editor-{seed}")
    models = {"without": plain, "with": edited}
    took = dict(zip(models, milliseconds(list(models.values()), run), strict=True))
    test = token_texts(plain.base, corpus.select("test").sample(o.measured), plain.config.context)
    entropy = corpus.info.get("entropy_nats")
    without_N = nats_without(plain, run.find_reference(plain.base), test, entropy)
    rows = [
        written(VoidArm.of(run, model), seed, o)
        | {"gain_nats": float((without_N - text_nats(model, test)).mean())}
        | {"editor": name, "seed": seed, "ms_a_text": took[name]}
        for name, model in models.items()
    ]
    write_json(kept, {"rows": rows})
    result.checkpoint.remove()
    return rows


def written(arm: VoidArm, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Counts of what it writes, by way of correction."""
    return {
        way: counts_of(*arm.written(options.decodes, np.random.default_rng([seed, 25]), PARTS[way]))
        for way in WAYS
    }


def milliseconds(models: Sequence[CLLM], run: RunFolder) -> list[float]:
    """CPU time of a decode of each, in turns, the median."""
    vectors_ND = run.load_latents().vectors_ND[:TIMED]
    took: list[list[float]] = [[] for _ in models]
    for _ in range(1 + TURNS):
        for model, mine in zip(models, took, strict=True):
            begun = time.process_time()
            model.decode(vectors_ND)
            mine.append(1000 * (time.process_time() - begun) / TIMED)
    return [float(np.median(mine[1:])) for mine in took]  # the first is to be warm


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """New texts with the editor over without, and yields, by way of correction."""
    of = {name: [row for row in rows if row["editor"] == name] for name in ("with", "without")}
    told: dict[str, Any] = {"rows": list(rows)}
    for way in WAYS:
        counts = zip(*([row[way] for row in some] for some in of.values()), strict=True)
        pairs = {("", seed): pair for seed, pair in enumerate(counts)}
        told[way] = {
            "new_with": [mine["new"] for mine, _ in pairs.values()],
            "new_without": [other["new"] for _, other in pairs.values()],
            "ratio": ratio_of(pairs, "new"), "yield_ratio": yields(of["with"], of["without"], way),
        }  # fmt: skip
        for name, some in of.items():
            texts = sum(row[way]["texts"] for row in some)
            for what in ("valid", "hit", "duplicate"):
                share = sum(row[way][what] for row in some) / max(1, texts)
                told[way][f"{what}_{name}"] = round(share, 4)
    for name, some in of.items():
        told[f"gain_nats_{name}"] = float(np.mean([row["gain_nats"] for row in some]))
        told[f"ms_a_text_{name}"] = float(np.mean([row["ms_a_text"] for row in some]))
    return told


def yields(mine: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], way: str) -> Any:  # noqa: ANN401
    """New texts of all texts, with the editor over without: geometric mean over seeds, Student's.

    None where some seed has no new text, or no text.
    """
    shares = [[row[way]["new"] / max(1, row[way]["texts"]) for row in some]
              for some in (mine, others)]  # fmt: skip
    if not all(map(all, shares)):
        return None
    log_S = np.log(np.divide(*map(np.array, shares)))
    found = of_few(log_S)
    told: dict[str, Any] = {"ratio": float(np.exp(found.mean)), "each": np.exp(log_S).tolist()}
    return told | ({"ci": np.exp(found.ci).tolist()} if found.n > 1 else {})


if __name__ == "__main__":
    main()
