"""CLLM: find new texts in the empty places ("voids") of a text space.

from cllm import CLLM
model = CLLM.from_pretrained("runs/demo/model")
vectors = model.encode(["title: leek soup. ..."])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cllm.base import BaseLM
    from cllm.corpus import Corpus
    from cllm.model import CLLM, CLLMConfig

__version__ = "0.1.0"
__all__ = ["CLLM", "BaseLM", "CLLMConfig", "Corpus", "__version__"]

_HOME = {
    "CLLM": "cllm.model",
    "CLLMConfig": "cllm.model",
    "BaseLM": "cllm.base",
    "Corpus": "cllm.corpus",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    """Import the public names on first use, so that `cllm --help` never loads torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'cllm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
