"""API keys: shown once, kept as hashes, compared in constant time.

key = add(path, "alice")      # `cllm serve --add-key alice`
name = KeyFile(path).owner(key)
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cllm.errors import InputError
from cllm.files import read_json, write_json

log = logging.getLogger("cllm.serve")

PREFIX = "cllm_"
BYTES = 32  # of chance: what a plain hash of cannot be guessed back


class Owners(Protocol):
    """Who knows whose a key is."""

    def owner(self, key: str) -> str | None:
        """Whose key it is; None: nobody's."""


@dataclass(frozen=True)
class Keys:
    """Hashes by name."""

    hashes: dict[str, str]

    @classmethod
    def load(cls, path: Path) -> Keys:
        """From a file of `add`; InputError where it is missing, damaged or empty."""
        if not path.exists():
            raise InputError(f"{path} does not exist; make a key with `cllm serve --add-key NAME`")
        hashes = read_json(path).get("keys")
        good = isinstance(hashes, dict) and all(
            isinstance(value, str) and len(value) == 64 for value in hashes.values()
        )
        if not good or not hashes:
            raise InputError(f"{path} holds no keys; make one with `cllm serve --add-key NAME`")
        return cls(hashes)

    def owner(self, key: str) -> str | None:
        """Whose key it is; every one is compared, whichever fits."""
        told, found = hashed(key), None
        for name, known in self.hashes.items():
            if hmac.compare_digest(told, known):
                found = name
        return found


@dataclass
class KeyFile:
    """The keys of a file as they are now: what is added, renewed or removed counts at once.

    While the file is missing, damaged or empty it is nobody's key. InputError at the start.
    """

    path: Path
    _keys: Keys = field(init=False)
    _read: tuple[int, int] | None = field(init=False)  # which state of the file

    def __post_init__(self) -> None:
        self._read, self._keys = self._state(), Keys.load(self.path)

    def owner(self, key: str) -> str | None:
        """Whose key it is."""
        if (state := self._state()) != self._read:
            self._read = state
            try:
                self._keys = Keys.load(self.path)
            except InputError as error:
                log.error("nobody is let in: %s", error)
                self._keys = Keys({})
        return self._keys.owner(key)

    def _state(self) -> tuple[int, int] | None:
        try:
            facts = self.path.stat()
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ino


def hashed(key: str) -> str:
    """SHA-256: enough for keys of 256 random bits, which nobody can try through."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add(path: Path, name: str) -> str:
    """A new key for a name, which replaces its old one; only its hash is kept."""
    known = read_json(path).get("keys", {}) if path.exists() else {}
    key = PREFIX + secrets.token_urlsafe(BYTES)
    write_json(path, {"keys": known | {name: hashed(key)}})
    os.chmod(path, 0o600)
    return key


def remove(path: Path, name: str) -> None:
    """Let the key of a name count no more; InputError where there is none."""
    known = dict(Keys.load(path).hashes)
    if known.pop(name, None) is None:
        raise InputError(f"{path} has no key of {name!r}; there are {', '.join(known)}")
    write_json(path, {"keys": known})
    os.chmod(path, 0o600)
