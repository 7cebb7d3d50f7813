"""With what something was made: code, packages, host."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CODE = "CONCORD_CODE"

PACKAGES = (
    "concord-train",
    "datasets",
    "deepspeed",
    "lm-eval",
    "numpy",
    "pyarrow",
    "ray",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
)


def code_version() -> str:
    """Commit of the checkout this code runs from, `+changes` if it has uncommitted ones; else the version installed.

    Code that was sent to a cluster has no checkout there: whoever sends it says the commit in CONCORD_CODE.
    """
    if sent := os.environ.get(CODE):
        return sent
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return _version("concord-train")
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(root, "status", "--porcelain") else commit
    except (OSError, subprocess.CalledProcessError):  # no git here, or not the user's checkout
        return _version("concord-train")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what is made, of those that are installed."""
    found = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: text for name, text in found.items() if text != "unknown"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
