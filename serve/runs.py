"""Which trained run a name means: its folder, and the model in it.

A name says what the run held when it was given, so that a service can go over to a new model in
the same folder while requests to the old one are still answered.

    name = name_of(RunFolder(Path("runs/demo")))     # /…/runs/demo@1f2e…
"""

from __future__ import annotations

from pathlib import Path

from cllm.errors import InputError
from cllm.files import digest, file_digest
from cllm.run import SHIPPED_VOIDS, RunFolder, existing_run

AT = "@"


def name_of(run: RunFolder) -> str:
    """The run's folder and a digest of its model and voids; InputError where one is missing."""
    weights, latents = run.model / "model.safetensors", run.latents
    for part, verb in ((weights, "train"), (latents, "embed"), (run.report, "embed")):
        if not part.exists():
            raise InputError(f"{part} does not exist; make it with `cllm {verb}`")
    parts = [file_digest(path) for path in (weights, run.voids, run.ideas) if path.exists()]
    return f"{run.path.resolve()}{AT}{digest(*parts)}"


def named(run: Path | str | None) -> str:
    """The name of the run in a folder; none: the default, or the one that ships."""
    if isinstance(run, str) and AT in run:
        return run  # it is one
    return name_of(existing_run(None if run is None else Path(run), shipped=SHIPPED_VOIDS))


def run_of(name: str) -> RunFolder:
    """The folder; InputError where it holds another model by now."""
    folder = RunFolder(Path(name.rpartition(AT)[0]))
    if name_of(folder) != name:
        raise InputError(f"{folder.path} holds another model by now; reload the service")
    return folder
