"""Which code and which packages made something."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from cluster.host.programs import ProgramFailed, call_program
from cluster.launch.code import PACKAGES as CODE_PACKAGES
from cluster.launch.code import ROOT

CODE = "CONCORD_CODE"

GIT_SECONDS = 60.0
"""Time limit of one command of git: `git status` reads the whole checkout, which may be on a slow network disk."""

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
    """Return the commit of the checkout this code runs from, `+changes` if the packages have uncommitted ones.

    Without a checkout it is the version. Code that was sent to a cluster has no checkout there: whoever sends it gives
    the commit in CONCORD_CODE.
    """
    if sent := os.environ.get(CODE):
        return sent
    if not (ROOT / ".git").exists():
        return _version("concord-train")
    try:
        commit = _git("rev-parse", "HEAD")
        # Only the packages: recipes and data that lie in the checkout are no code.
        return f"{commit}+changes" if _git("status", "--porcelain", "--", *CODE_PACKAGES) else commit
    except ProgramFailed:  # no git here, or not the user's checkout
        return _version("concord-train")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that decide what is made, as far as they are installed."""
    found = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: text for name, text in found.items() if text != "unknown"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    return call_program(["git", "-C", str(ROOT), *arguments], timeout_seconds=GIT_SECONDS)
