"""API keys: shown once, kept as hashes, compared in constant time.

key = add(path, "alice")      # `cllm serve --add-key alice`
name = Keys.load(path).owner(key)
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cllm.errors import InputError
from cllm.files import read_json, write_json

PREFIX = "cllm_"
BYTES = 32  # of chance: what a plain hash of cannot be guessed back


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
