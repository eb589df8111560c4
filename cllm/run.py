"""The run folder: every command reads and writes one, and replaces only its own part.

run = RunFolder(Path("runs/demo"))
run.note("voids", {"count": 12})   # a section of report.json
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cllm.errors import InputError
from cllm.files import file_digest, read_json, replacing, write_json

if TYPE_CHECKING:
    from cllm.base import BaseLM
    from cllm.corpus import Corpus
    from cllm.critic import Critic
    from cllm.model import CLLM
    from cllm.reference import ReferenceLM
    from cllm.store import Latents

log = logging.getLogger(__name__)

PLAUSIBLE = "plausible.npz"  # beside the reference LM: what tells plausible texts
DEFAULT_RUN = Path("runs/default")
SHIPPED = Path(__file__).parent / "assets" / "recipes"  # trained to restore
SHIPPED_VOIDS = SHIPPED.with_name("voids")  # over the same base, trained to write from voids


@dataclass(frozen=True)
class RunFolder:
    """Paths of the design's run folder, and loaders with clear complaints."""

    path: Path

    @property
    def corpus(self) -> Path:
        """corpus.parquet."""
        return self.path / "corpus.parquet"

    @property
    def base(self) -> Path:
        """The frozen base LLM, with its reference LM inside."""
        return self.path / "base"

    @property
    def reference(self) -> Path:
        """The LM without a vector that belongs to the base."""
        return self.base / "reference"

    @property
    def critic(self) -> Path:
        """The critic of nearly real texts, where one was trained."""
        return self.base / "critic"

    @property
    def passages(self) -> Path:
        """The CLLM of passages, where the run's own folds their vectors."""
        return self.base / "passages"

    @property
    def model(self) -> Path:
        """The CLLM."""
        return self.path / "model"

    @property
    def latents(self) -> Path:
        """Parquet shards, the source of truth."""
        return self.path / "latents"

    @property
    def milvus(self) -> str:
        """Where Milvus Lite keeps its index, unless a server is named."""
        return str(self.path / "milvus.db")

    @property
    def voids(self) -> Path:
        """voids.parquet."""
        return self.path / "voids.parquet"

    @property
    def ideas(self) -> Path:
        """ideas.parquet."""
        return self.path / "ideas.parquet"

    @property
    def report(self) -> Path:
        """report.json."""
        return self.path / "report.json"

    @property
    def shipped(self) -> bool:
        """Whether this is a run that came with the project; it is never written to."""
        return self.path.resolve() in (SHIPPED.resolve(), SHIPPED_VOIDS.resolve())

    def branch(self, path: Path) -> RunFolder:
        """Another run over the same corpus and base, which are only pointed to."""
        path.mkdir(parents=True, exist_ok=True)
        for part in (self.corpus, self.base):
            there = path / part.name
            there.unlink(missing_ok=True)
            there.symlink_to(part.resolve())
        shared = {name: self.notes().get(name, {}) for name in ("corpus", "base")}
        branch = RunFolder(path)
        write_json(branch.report, branch.notes() | shared)
        return branch

    def load_corpus(self) -> Corpus:
        """The corpus."""
        from cllm.corpus import Corpus

        return Corpus.load(self.corpus)

    def load_trained_corpus(self) -> Corpus:
        """The corpus, if it is the one the model was trained on: another split would leak."""
        corpus, told = self.load_corpus(), training_facts(self.model)
        if told["corpus_hash"] != corpus.hash:
            raise InputError(
                f"{self.model} was trained on corpus {told['corpus_hash']}, but {self.corpus} is "
                f"{corpus.hash}; train again with `cllm train`, or build that corpus again"
            )
        return corpus

    def load_base(self) -> BaseLM:
        """The base LLM."""
        from cllm.base import BaseLM

        if not self.base.is_dir():
            raise InputError(
                f"{self.base} does not exist; make a base LLM with `cllm pretrain` or `cllm adapt`"
            )
        return BaseLM.load(self.base)

    def load_reference(self, base: BaseLM) -> ReferenceLM:
        """The LM without a vector that belongs to the base."""
        from cllm.reference import ReferenceLM

        return ReferenceLM.load(self.reference, base)

    def find_reference(self, base: BaseLM) -> ReferenceLM | None:
        """The same; None where the base came without one."""
        return self.load_reference(base) if self.reference.is_dir() else None

    def find_critic(self, base: BaseLM) -> Critic | None:
        """The critic of these texts; None where none was trained, or one of others."""
        from cllm.critic import Critic

        if not self.critic.is_dir():
            return None
        if training_facts(self.critic).get("judged_by") != self.judged_by:
            log.warning("%s is of other texts or another reference LM, and does not judge; train "
                        "one with `cllm pretrain`", self.critic)  # fmt: skip
            return None
        return Critic.load(self.critic, base)

    @property
    def judged_by(self) -> str:
        """Which corpus and reference LM texts are judged with; changes where one does."""
        weights = self.reference / "model.safetensors"
        ours = file_digest(weights) if weights.exists() else ""
        return f"{self.load_corpus().hash} {ours}"

    @property
    def measured_by(self) -> str:
        """Which corpus, base and reference LM gains are counted with; changes where one does."""
        corpus, weights = self.judged_by.split(" ")
        return f"{corpus} {self.notes()['base']['hash']} {weights}"

    def load_model(self) -> CLLM:
        """The CLLM with its base."""
        from cllm.model import CLLM

        if not self.model.is_dir():
            raise InputError(f"{self.model} does not exist; train one with `cllm train`")
        return CLLM.load(self.model)

    def load_latents(self, model: CLLM | None = None) -> Latents:
        """The vectors, if this model made them; or, where it is not loaded, that of the run."""
        from cllm.store import load_latents

        if model:
            dim, made_by = model.config.dim, model.hash
        else:
            facts = training_facts(self.model)
            dim, made_by = facts["dim"], facts["hash"]
        latents = load_latents(self.latents, dim)
        if latents.model_hash != made_by:
            raise InputError(
                f"{self.latents} was made by model {latents.model_hash}, but {self.model} is "
                f"{made_by}; embed again with `cllm embed --replace`"
            )
        return latents

    def notes(self) -> dict[str, Any]:
        """What report.json says so far."""
        return dict(read_json(self.report)) if self.report.exists() else {}

    def note(self, section: str, value: object) -> None:
        """Replace one section of report.json."""
        write_json(self.report, self.notes() | {section: value})

    def forget(self, *sections: str) -> None:
        """Drop sections of report.json that a new corpus, base or model has made untrue."""
        notes = self.notes()
        if notes.keys() & set(sections):
            write_json(self.report, {k: v for k, v in notes.items() if k not in sections})

    def time(self, step: str, begun: float) -> None:
        """Note how long a step took that began at `time.perf_counter()` = `begun`."""
        seconds = self.notes().get("seconds", {})
        self.note("seconds", seconds | {step: round(time.perf_counter() - begun, 2)})

    def metrics(self) -> list[dict[str, float]]:
        """Lines of metrics.jsonl, oldest first; none where nothing was trained here."""
        path = self.path / "metrics.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # no half line
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); move it away") from error


def training_facts(folder: Path) -> dict[str, Any]:
    """What training.json says of a trained folder; InputError where it does not."""
    facts = read_json(folder / "training.json").get("facts")
    if not isinstance(facts, dict):
        raise InputError(f"{folder / 'training.json'} has no facts; train again")
    return facts


def existing_run(
    path: Path | None, default: Path = DEFAULT_RUN, shipped: Path = SHIPPED
) -> RunFolder:
    """The run a command reads: the one named, else the default if trained, else a shipped one."""
    if path is not None:
        return RunFolder(path)
    if (default / "model").is_dir():
        return RunFolder(default)
    if not (shipped / "model").is_dir():
        raise InputError("no trained run here and none shipped; train one with `cllm demo`")
    return RunFolder(shipped)


def output_run(path: Path | None) -> RunFolder:
    """The run a command writes: the one named, else the default; never the shipped one."""
    run = RunFolder(path or DEFAULT_RUN)
    if run.shipped:
        raise InputError("the shipped run is read-only; name another folder with --run")
    return run


def trained_run(path: Path | None) -> RunFolder:
    """The run a command goes on with; the default begins as a copy of the shipped one."""
    run = output_run(path)
    if path is None and not run.path.exists():
        log.info("nothing is trained here yet: %s becomes a copy of the shipped run", run.path)
        with replacing(run.path) as new:
            shutil.copytree(SHIPPED, new)
    if path is None and not run.model.is_dir():
        raise InputError(
            f"{run.path} holds no model yet; train one with `cllm train`, or name a run with --run"
        )
    return run
