"""Models of fastText: the one door to that library, of which three packages have the same module."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.host.files import version_of
from configs.base import UserError

_EVERY_LABEL = 10_000
"""More labels than a model has."""


def load_fasttext(path: str, where: str) -> Any:
    """Load a model, once in a process. Raises UserError, which says where it was named, if it is missing or is none."""
    return _load(path, where, version_of(Path(path)))


@lru_cache(maxsize=8)
def _load(path: str, where: str, version: tuple[int, int]) -> Any:
    try:
        import fasttext
    except ImportError:
        raise UserError(
            f"{where}: a model of fastText is wanted, and fastText is not installed; install concord-train[fasttext]"
        ) from None
    if not Path(path).is_file():
        raise UserError(f"{where}: {path} is not there; give the file of a fastText model")
    try:
        return fasttext.load_model(path)
    except (ValueError, MemoryError, RuntimeError) as error:
        raise UserError(f"{where}: {path} is no model of fastText ({error}); give a .bin or .ftz file") from None


def predict(model: Any, text: str, *, number: int | None) -> list[tuple[str, float]]:
    """Return the most likely labels of a text, so many or all, each with its probability."""
    line = text.encode("utf-8", "replace").decode().replace("\n", " ")
    labels, scores = model.predict(line, k=number or _EVERY_LABEL, threshold=-1.0)
    return [(label, min(1.0, float(score))) for label, score in zip(labels, scores, strict=True)]
