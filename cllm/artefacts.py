"""What a trained folder was made from, so that the same work is not done twice.

made_from = identity(settings, corpus.hash)
if not finished(folder, made_from): …; remember(folder, made_from, settings, facts)
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cllm.cards import command_line
from cllm.errors import InputError
from cllm.files import digest, read_json, write_json

log = logging.getLogger(__name__)


def identity(settings: BaseModel, *upstream: str) -> str:
    """What an artefact was made from: its settings and the hashes of its inputs."""
    return digest(settings.model_dump_json(), *upstream)


def finished(folder: Path, wanted: str) -> bool:
    """Whether an artefact made from just this lies there, so that `cllm run` can go on after it."""
    note = folder / "training.json"
    if not note.exists() or read_json(note).get("identity") != wanted:
        return False
    log.info("%s is there already, made with the same settings; kept", folder)
    return True


def remember(folder: Path, made_from: str, settings: BaseModel, facts: dict[str, Any]) -> None:
    """Write an artefact's training.json."""
    note = {"identity": made_from, "settings": settings.model_dump(), "facts": facts}
    write_json(folder / "training.json", note | {"command": command_line()})


def settings_of(folder: Path, kind: type[Any]) -> Any:  # noqa: ANN401 - one of `kind`
    """The settings that a folder of weights was trained with. InputError: they are no more known.

    A round's are those of the run that the loop began with: its own are beside them.
    """
    try:
        return kind.model_validate(read_json(folder / "training.json")["settings"])
    except (ValidationError, KeyError) as error:
        raise InputError(
            f"{folder / 'training.json'} does not say how it was trained; train it again"
        ) from error
