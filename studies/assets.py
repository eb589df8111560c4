"""Make a model that ships: `make assets`, or `python -m studies.assets --help`.

Base, reference LM and CLLM over the built-in `plain` recipes, with latents, voids and
scores, trained in a run folder and copied to `cllm/assets/recipes` in half precision; with
`--aim voids` a CLLM over that base, to `cllm/assets/voids`, which points to base and corpus.
"""

import argparse
import logging
import shutil
from pathlib import Path

from cllm import discovery, pipeline
from cllm.cards import write_base_card
from cllm.console import one_line_errors, set_up_logging
from cllm.corpus import built_in_corpus
from cllm.errors import InputError
from cllm.files import halve, read_json, replacing, write_json
from cllm.run import SHIPPED, SHIPPED_VOIDS, RunFolder
from cllm.settings import RunSettings, overridden

log = logging.getLogger(__name__)

BY_STEPS = ("train.loop.steps=14000", "train.loop.seconds=0")  # of the one for voids
COMMANDS = {"text": "make assets", "voids": "python -m studies.assets --aim voids"}
LEFT_OUT = ("training", "tensorboard", "checkpoint", "milvus.db", "report.html", "map.png")


def main() -> None:
    """Train what is missing in the run folder, evaluate, and put it in place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="[default: runs/assets-AIM]")
    parser.add_argument("--seconds", type=float, default=2300, help="for the CLLM that restores")
    parser.add_argument("--base-seconds", type=float, default=1400)
    parser.add_argument("--reference-seconds", type=float, default=240)
    parser.add_argument("--aim", choices=("text", "voids"), default="text")
    parser.add_argument("--set", action="append", default=[], help="any setting, as `cllm train`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--again", action="store_true",
        help="train nothing: voids, ideas and report anew, with the models that ship",
    )  # fmt: skip
    args = parser.parse_args()
    set_up_logging()
    place, changes = SHIPPED, args.set
    if args.aim == "voids":
        place, changes = SHIPPED_VOIDS, [*BY_STEPS, *args.set]
    settings = overridden(
        "quick",
        dim=32,
        seed=args.seed,
        seconds=args.seconds,
        base_seconds=args.base_seconds,
        aim=args.aim,
        changes=changes,
    ).model_copy(update={"reference_seconds": args.reference_seconds, "evaluated": 1000})
    with one_line_errors():
        run = RunFolder(args.run or Path("runs") / f"assets-{args.aim}")
        _require_own(run, args.aim)
        pointed = ("base", "corpus.parquet") if place == SHIPPED_VOIDS else ()
        if args.again:
            shutil.copytree(place, run.path, ignore=shutil.ignore_patterns(*pointed))
        if pointed:
            RunFolder(SHIPPED).branch(run.path)
        if not args.again:
            train(run, settings)
            measure(run, settings, COMMANDS[args.aim])
        write(run, settings)
        ship(run, place)


def train(run: RunFolder, settings: RunSettings) -> None:
    """What is missing of corpus, base and model; corpus and base may be pointed to."""
    if not run.base.is_symlink():
        if not run.corpus.exists() or run.load_corpus().info["seed"] != settings.seed:
            pipeline.keep_corpus(run, built_in_corpus("plain", 20_000, settings.seed))
        pipeline.make_base(run, settings.base, reuse=True)
        pipeline.make_reference(run, settings, reuse=True)
    pipeline.train_model(run, settings, reuse=True)


def measure(run: RunFolder, settings: RunSettings, command: str) -> None:
    """What the models are and how well they restore, with the weights as they will ship."""
    own = [run.model] if run.base.is_symlink() else [run.base, run.reference, run.model]
    for folder in own:
        halve(folder / "model.safetensors")
    facts = run.notes()["model"] | {"hash": run.load_model().hash, "origin": "shipped"}
    run.note("model", facts)
    base = run.notes()["base"]
    for folder, known in ((run.base, base), (run.model, facts)):
        if folder in own:
            told = read_json(folder / "training.json")
            write_json(folder / "training.json", told | {"facts": known, "command": command})
    if run.base in own:
        write_base_card(run.base, base, run.load_corpus(), settings.seed, command)
    pipeline.embed_corpus(run, replace=True)
    discovery.evaluate_run(run, settings.seed, settings.evaluated)


def write(run: RunFolder, settings: RunSettings) -> None:
    """Voids, ideas, report."""
    discovery.search_voids(run, settings.seed, quick=settings.quick_voids)
    discovery.write_ideas(run, settings.seed, settings.ideas)
    discovery.report_run(run, settings.seed)


def ship(run: RunFolder, place: Path) -> None:
    """Copy the run, without what can be made again."""
    shared = [part.name for part in (run.base, run.corpus) if part.is_symlink()]
    with replacing(place) as new:
        shutil.copytree(run.path, new, ignore=shutil.ignore_patterns(*LEFT_OUT, *shared))
        for file in (file for name in shared for file in _files(SHIPPED / name)):
            link = new / file.relative_to(SHIPPED)  # each file: packaging follows no folders
            link.parent.mkdir(parents=True, exist_ok=True)
            up = [".."] * len(link.relative_to(new.parent).parent.parts)
            link.symlink_to(Path(*up) / file.relative_to(SHIPPED.parent))
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    log.info("shipped %s: %.1f MB", place, size / 1e6)


def _require_own(run: RunFolder, aim: str) -> None:
    """InputError where a folder was begun with the other aim: base and corpus would be mixed up."""
    if run.base.exists() and run.base.is_symlink() != (aim == "voids"):
        raise InputError(f"{run.path} was begun with another --aim; name another --run")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in (path, *path.rglob("*")) if file.is_file())


if __name__ == "__main__":
    main()
