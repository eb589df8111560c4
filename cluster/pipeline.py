r"""The whole chain as one job on a Ray cluster; what is there already is not made again.

    ray job submit --working-dir . -- \
        python -m cluster.pipeline --config cluster/configs/recipes.yaml

A stage is skipped where its inputs and what it made are as they were. Stages that one machine
does run as a task on a worker, so that the head stays free.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from cllm.console import one_line_errors, set_up_logging
from cllm.errors import InputError, WorkError
from cllm.files import digest
from cllm.run import SHIPPED, RunFolder
from cllm.settings import Aim, Preset, RunSettings, Settings, overridden
from cluster import embed, tasks, train, voids
from cluster.remote import (
    absolute,
    contents,
    copied,
    forget_hashes,
    is_url,
    lasting,
    read_text,
    write_text,
)

log = logging.getLogger(__name__)

BUILT_IN, SHIPPED_BASE = "built-in", "shipped"


class Step(Settings):
    """What a stage on one machine gets."""

    cpus: float = Field(1, gt=0)
    gpu: bool = False


class Training(Step):
    """What the training gets."""

    workers: int = Field(2, ge=0)
    retries: int = Field(3, ge=0)
    timeout: float = Field(train.TIMEOUT, gt=0)  # seconds that a worker waits for the others
    name: str = "model"
    storage: str = ""  # of checkpoints; none = in the run folder


class Embedding(Step):
    """What the embedding gets."""

    actors: int = Field(2, ge=1)
    rows: int = Field(2048, ge=1)


class Shards(Settings):
    """What the void search gets."""

    shards: int = Field(2, ge=1)
    cpus: float = Field(1, gt=0)


class Config(Settings):
    """A configuration file."""

    run: str
    corpus: str = BUILT_IN
    texts: int = Field(20_000, ge=10)
    preset: Preset = "quick"
    dim: int = 32
    aim: Aim = "text"
    seed: int = Field(0, ge=0)
    set: tuple[str, ...] = ()
    base: str | None = SHIPPED_BASE
    milvus: str | None = None
    step: Step = Step()
    train: Training = Training()
    embed: Embedding = Embedding()
    voids: Shards = Shards()
    wait: float = Field(60, ge=0)

    @property
    def settings(self) -> RunSettings:
        """Of the library."""
        return overridden(
            self.preset, dim=self.dim, aim=self.aim, seed=self.seed, changes=self.set,
            adapting=self.base not in (None, SHIPPED_BASE),
        )  # fmt: skip

    @property
    def own_base(self) -> str:
        """A base that lies in a folder or at a URL, not on a hub; "" where it does not."""
        if self.base in (None, "", SHIPPED_BASE):
            return ""
        return absolute(self.base) if is_url(self.base) or Path(self.base).is_dir() else ""


@dataclass(frozen=True)
class Stage:
    """A part of the chain: what it reads and makes of the run folder, and what else decides."""

    name: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    decided_by: Callable[[Config], object]
    work: Callable[[Config], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is to be done, print one JSON object."""
    p = argparse.ArgumentParser(prog="cluster.pipeline", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--config", type=Path, required=True, help="YAML: settings, corpus, sizes; see "
                   "cluster/configs")  # fmt: skip
    p.add_argument("--run", help="instead of the file's")
    p.add_argument("--address", help="of the cluster; without it: the job's, else this machine")
    options = p.parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        from cluster.joining import joined

        config = load(options.config, options.run)
        with joined(options.address):
            told = chain(config)
        print(json.dumps(told))


def load(path: Path, run: str | None = None) -> Config:
    """A configuration file, its run folder absolute; InputError names what does not fit."""
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
        config = Config.model_validate((values or {}) | ({"run": run} if run else {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place}: {first['msg']}") from error
    except (OSError, yaml.YAMLError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no configuration ({reason}); see cluster/configs") from error
    corpus = config.corpus if config.corpus == BUILT_IN else absolute(config.corpus)
    milvus = config.milvus and lasting(config.milvus)
    places = {
        "run": lasting(config.run), "corpus": corpus, "base": config.own_base or config.base,
        "milvus": milvus,
    }  # fmt: skip
    config = config.model_copy(update=places)
    if config.settings.passage:  # what does not fit is said now
        raise InputError(
            f"{path}: set: passage={config.settings.passage}: a chain on a cluster trains one "
            "level only so far; use `cllm run --levels 2`"
        )
    return config


def chain(config: Config) -> dict[str, Any]:
    """Every stage that is not done yet; which were, and how long the others took."""
    told: dict[str, Any] = {"run": config.run, "kept": [], "made": {}}
    for stage in STAGES:
        decided, read = _decided(config, stage), _contents(config, stage.reads)
        if _is_done(config, stage, _digest(stage, decided, read)):
            log.info("%s: kept", stage.name)
            told["kept"].append(stage.name)
            continue
        if not told["made"]:
            require_all(config, STAGES[STAGES.index(stage) :])
        log.info("%s: begins", stage.name)
        begun = time.monotonic()
        try:
            stage.work(config)
        except InputError as error:
            raise (WorkError if told["made"] else InputError)(str(error)) from error
        forget_hashes()  # on some file systems a file looks unchanged for a while
        _note(config, stage, decided, read)
        told["made"][stage.name] = round(time.monotonic() - begun, 1)
        log.info("%s: done in %.0f s", stage.name, told["made"][stage.name])
    return told


def require_all(config: Config, stages: Sequence[Stage]) -> None:
    """InputError, before anything is begun, where one of these stages could not be done."""
    from cllm.store import require_reachable
    from cluster.joining import require, require_seen

    step, t, e, v = config.step, config.train, config.embed, config.voids
    for stage in stages:
        means, count, what = {
            TRAIN: (t, t.workers, "workers"), EMBED: (e, e.actors, "actors"),
            VOIDS: (Step(cpus=v.cpus), v.shards, "shards"),
        }.get(stage, (step, 1, f"worker for stage {stage.name}"))  # fmt: skip
        needs = tasks.Needs(means.cpus, means.gpu)
        if count:
            require(needs.resources, count, f"{count} {what}", config.wait)
        if stage is EMBED and config.milvus:
            require_reachable(config.milvus)
    require_seen(config.run)


def _is_done(config: Config, stage: Stage, inputs: str) -> bool:
    note = read_text(_note_of(config, stage))
    if note is None:
        return False
    there = _contents(config, stage.makes)
    return bool(json.loads(note) == {"inputs": inputs, "made": there} and all(there.values()))


def _note(config: Config, stage: Stage, decided: str, read: Mapping[str, str]) -> None:
    """Note what a stage was done from and made; what it added to earlier parts is theirs as well.

    WorkError: it left nothing.
    """
    made = _contents(config, stage.makes)
    if not all(made.values()):
        raise WorkError(f"stage {stage.name} left no {' or '.join(made)} in {config.run}")
    for earlier in STAGES[: STAGES.index(stage)]:
        shared = made.keys() & set(earlier.makes)
        if shared and (note := read_text(_note_of(config, earlier))):
            told = json.loads(note)
            told["made"] |= {part: made[part] for part in shared}
            write_text(_note_of(config, earlier), json.dumps(told))
    read = {part: made.get(part, before) for part, before in read.items()}
    inputs = _digest(stage, decided, read)
    write_text(_note_of(config, stage), json.dumps({"inputs": inputs, "made": made}))


def _note_of(config: Config, stage: Stage) -> str:
    return f"{config.run}/stages/{stage.name}.json"


def _decided(config: Config, stage: Stage) -> str:
    return json.dumps(stage.decided_by(config), sort_keys=True, default=str)


def _contents(config: Config, parts: Sequence[str]) -> dict[str, str]:
    return {part: contents(f"{config.run}/{part}") for part in parts}


def _digest(stage: Stage, decided: str, read: Mapping[str, str]) -> str:
    return digest(stage.name, decided, *read.values())


# ---- stages ------------------------------------------------------------------------------


def on_worker(config: Config, stage: Stage, work: Callable[..., None], **how: object) -> None:
    """A stage that one machine does: `work(run folder, settings, …)` on some worker."""
    tasks.on_worker(
        config.run, stage.reads, stage.makes, partial(work, settings=config.settings, **how),
        tasks.Needs(config.step.cpus, config.step.gpu, config.wait), f"stage {stage.name}",
    )  # fmt: skip


def _corpus(run: RunFolder, settings: RunSettings, source: str, texts: int) -> None:
    from cllm import pipeline
    from cllm.cli_corpus import read_corpus
    from cllm.corpus import built_in_corpus
    from cllm.fitting import require_enough_texts

    built_in = source == BUILT_IN
    corpus = (
        built_in_corpus("plain", texts, settings.seed) if built_in
        else read_corpus(copied(source), "text", 100, settings.seed)
    )  # fmt: skip
    require_enough_texts(corpus, settings.model.dim)
    pipeline.keep_corpus(run, corpus)


def _base(run: RunFolder, settings: RunSettings, base: str | None) -> None:
    """A model that was trained on another base is trained again by the next stage."""
    from cllm import pipeline
    from cllm.critics import make_critic

    if base == SHIPPED_BASE:
        pipeline.borrow_base(run, SHIPPED / "base")
        return
    shutil.rmtree(run.model, ignore_errors=True)
    if base is None:
        pipeline.make_base(run, settings.base, reuse=True)
    else:
        own = str(copied(base)) if is_url(base) else base
        pipeline.adapt_base(run, own, settings.base, reuse=True)
    pipeline.make_reference(run, settings, reuse=True)
    make_critic(run, settings, reuse=True)


def _train(config: Config) -> None:
    t = config.train
    storage = lasting(t.storage) if t.storage else f"{config.run}/training/ray"
    means = train.Means(
        t.workers, t.gpu, t.cpus, storage, t.name, t.retries, config.wait, t.timeout, ""
    )  # fmt: skip
    if t.workers:
        train.train(config.run, config.settings, means)
    else:
        train.alone(config.run, config.settings)


def _embed(config: Config) -> None:
    e = config.embed
    means = embed.Means(e.actors, e.gpu, e.cpus, e.rows, config.wait)
    embed.embed(config.run, [f"{config.run}/corpus.parquet"], means)
    if config.milvus:
        embed.fill(config.run, config.milvus, means)


def _voids(config: Config) -> None:
    v = config.voids
    voids.search(
        config.run, config.seed, v.shards, v.cpus, quick=config.settings.quick_voids,
        wait=config.wait,
    )  # fmt: skip


def _generate(run: RunFolder, settings: RunSettings) -> None:
    from cllm import discovery

    discovery.write_ideas(run, settings.seed, settings.ideas)


def _report(run: RunFolder, settings: RunSettings) -> None:
    from cllm import discovery

    discovery.evaluate_run(run, settings.seed, settings.evaluated)
    discovery.report_run(run, settings.seed)


MODEL = ("corpus.parquet", "base", "model")
SPACE = (*MODEL, "latents")

CORPUS = Stage(
    "corpus", (), ("corpus.parquet",),
    lambda c: [c.corpus, c.corpus != BUILT_IN and contents(c.corpus), c.texts, c.seed, c.dim],
    lambda c: on_worker(c, CORPUS, _corpus, source=c.corpus, texts=c.texts),
)  # fmt: skip
BASE = Stage(
    "base", ("corpus.parquet",), ("base",), 
    lambda c: [
        c.base, c.own_base and contents(c.own_base), c.settings.base.model_dump(),
        c.settings.reference_seconds, c.settings.train.loop.model_dump(),
    ],
    lambda c: on_worker(c, BASE, _base, base=c.base),
)  # fmt: skip
TRAIN = Stage(
    "train", ("corpus.parquet", "base"), ("model",),
    lambda c: c.settings.model_dump(include={"model", "train", "void_dim", "seed"})
    | ({"editor": c.settings.editor} if c.settings.editor else {}),
    _train,
)  # fmt: skip
EMBED = Stage("embed", MODEL, ("latents",), lambda c: c.milvus, _embed)
VOIDS = Stage(
    "voids", SPACE, ("voids.parquet",), lambda c: [c.seed, c.settings.quick_voids], _voids
)
GENERATE = Stage(
    "generate", (*SPACE, "voids.parquet"), ("ideas.parquet", "voids.parquet"),  # those of texts
    lambda c: [c.seed, c.settings.ideas], lambda c: on_worker(c, GENERATE, _generate),
)  # fmt: skip
REPORT = Stage(
    "report", (*SPACE, "voids.parquet", "ideas.parquet"), ("report.html", "map.png"),
    lambda c: [c.seed, c.settings.evaluated], lambda c: on_worker(c, REPORT, _report),
)  # fmt: skip
STAGES = (CORPUS, BASE, TRAIN, EMBED, VOIDS, GENERATE, REPORT)


if __name__ == "__main__":
    main()
