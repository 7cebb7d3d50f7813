"""Software of a host: Python, packages, compiler, tokens and other settings; and whether hosts agree in it."""

import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.launch.code import PACKAGES, ROOT
from configs.cluster import WandbConfig

_NAME = "concord-train"
_INSTALL = "python -m pip install --constraint constraints.txt --editable ."

_CODE_SUFFIXES = (".py", ".sh")

SKEW_SECONDS, BAD_SKEW_SECONDS = 1.0, 60.0
"""A clock that is further off gets a WARN, a FAIL: people compare logs by the second, and tokens, like munge's
credentials, are good for minutes."""

_DECISIVE = frozenset(
    {"python", "code", "ray", "torch", "deepspeed", "transformers", "tokenizers", "numpy", "pydantic", "safetensors"}
)
"""A node whose version of one of these differs fails, or makes something else."""

_MAX_NAMED = 6
"""How many packages that differ a finding names."""

_TRUE_WORDS = ("1", "on", "yes", "true")


def python_finding() -> Finding:
    """Check that this Python is one that Concord runs on."""
    wanted = SpecifierSet(_project().get("requires-python", ">=3.11"))
    seen = f"{platform.python_version()} at {sys.executable}"
    if platform.python_version() in wanted:
        return ok("Python", seen)
    return fail("Python", f"{seen}, but Concord needs {wanted}", fix="make .venv with one: make PYTHON=python3.11 test")


def package_findings() -> list[Finding]:
    """Check that the packages that Concord requires are there, at versions that it allows, and at the tested ones."""
    required = [requirement for requirement in _requirements() if _applies(requirement)]
    found = {requirement.name: installed_version(requirement.name) for requirement in required}
    wrong = [
        f"{r.name} {found[r.name] or 'is missing'} ({r.specifier or 'any'})"
        for r in required
        if found[r.name] is None or not r.specifier.contains(str(found[r.name]), prereleases=True)
    ]
    if wrong:
        return [fail("packages", ", ".join(wrong), fix=_INSTALL)]
    return [ok("packages", f"{len(required)} as pyproject.toml asks"), *_tested_version_findings()]


def compiler_finding(*, needed: bool) -> Finding:
    """Check that C++ can be compiled, which only some settings of a pool need."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    ninja = shutil.which("ninja", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))
    missing = [name for name, path in (("C++ compiler", compiler), ("ninja", ninja)) if path is None]
    if not missing:
        return ok("compiler", f"{compiler}, {ninja}")
    seen = f"no {' and no '.join(missing)}"
    if not needed:
        return ok("compiler", f"{seen}; no pool needs them (offload_optimizer and compile do)")
    return fail(
        "compiler",
        f"{seen}; a pool sets offload_optimizer or compile",
        fix="apt-get install g++ ninja-build; or set offload_optimizer: false and compile: false in the cluster file",
    )


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, of the required packages that are there, and a digest of Concord's code."""
    packages = {r.name: installed_version(r.name) for r in _requirements() if _applies(r)}
    return {
        "python": platform.python_version(),
        "code": code_digest(),
        **{name: text for name, text in sorted(packages.items()) if text is not None},
    }


def code_digest() -> str:
    """Return twelve hex digits that stand for the Python and shell files of Concord's packages."""
    digest = hashlib.sha256()
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in _CODE_SUFFIXES)
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tested_version_findings() -> list[Finding]:
    """Check that installed packages have the versions of constraints.txt, where there is one."""
    file = ROOT / "constraints.txt"
    if not file.exists():
        return []
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: installed_version(name) for name, _ in pins}
    others = [
        f"{name} {found[name]} (tested {pin})" for name, pin in pins if found[name] and not _matches(found[name], pin)
    ]
    if not others:
        return [ok("tested versions", f"{sum(map(bool, found.values()))} packages as in constraints.txt")]
    more = f" and {len(others) - 8} more" if len(others) > 8 else ""
    return [warn("tested versions", ", ".join(others[:8]) + more, fix=_INSTALL)]


def _matches(found: str | None, pin: str) -> bool:
    return SpecifierSet(f"=={pin}").contains(str(found), prereleases=True)  # 2.13.0+cpu is 2.13.0


def _project() -> dict[str, str]:
    """Return the table [project] of pyproject.toml; empty where only the package is installed."""
    file = ROOT / "pyproject.toml"
    return dict(tomllib.loads(file.read_text(encoding="utf-8"))["project"]) if file.exists() else {}


def _requirements() -> list[Requirement]:
    lines = _project().get("dependencies") or _installed_requirements()
    return [Requirement(line) for line in lines]


def _installed_requirements() -> list[str]:
    try:
        return requires(_NAME) or []
    except PackageNotFoundError:
        return []


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def hub_finding(environment: Mapping[str, str] = os.environ) -> Finding:
    """Tell whether the Hugging Face hub is used, and with a token or without."""
    if environment.get("HF_HUB_OFFLINE", "").lower() in _TRUE_WORDS:
        return ok("Hugging Face hub", "HF_HUB_OFFLINE is set: only what is in the cache is used")
    home = Path(environment.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    if environment.get("HF_TOKEN") or (home / "token").exists():
        return ok("Hugging Face hub", "online, with a token")
    return ok("Hugging Face hub", "online, without a token: public repositories only (for others: hf auth login)")


def wandb_finding(wanted: WandbConfig | None, environment: Mapping[str, str] = os.environ) -> Finding:
    """Check that metrics go to Weights & Biases as the cluster file says."""
    if wanted is None:
        return ok("Weights & Biases", "not asked for")
    key = bool(environment.get("WANDB_API_KEY")) or _in_netrc(environment)
    mode = environment.get("WANDB_MODE", "online")
    if wanted.mode == "online" and not key:
        fix = "wandb login, or set WANDB_API_KEY, or wandb: {mode: offline} in the cluster file"
        return fail("Weights & Biases", "the cluster file says `mode: online`, and there is no API key", fix=fix)
    if wanted.mode == "online" and mode != "online":
        fix = "unset WANDB_MODE, or set wandb: {mode: offline} in the cluster file"
        return warn("Weights & Biases", f"the cluster file says `mode: online`, WANDB_MODE says {mode}", fix=fix)
    if wanted.mode == "offline" or not key:
        return ok("Weights & Biases", "offline: metrics are kept on disk")
    return ok("Weights & Biases", f"{mode}, with an API key")


def token_findings(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Check that Ray's token is where the environment says, and that nobody else can read it."""
    wanted = environment.get("RAY_AUTH_MODE", "").lower() == "token"
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if environment.get("RAY_AUTH_TOKEN"):
        return [ok("Ray token", "RAY_AUTH_TOKEN is set")]
    if not path.is_file():
        seen = f"{path}: there is no token" + (", though RAY_AUTH_MODE=token" if wanted else "")
        fix = "ray get-auth-token --generate, or set RAY_AUTH_TOKEN_PATH to the cluster's token"
        return [fail("Ray token", seen, fix=fix) if wanted or named else ok("Ray token", "none set")]
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return [warn("Ray token", f"{path} can be read by other users", fix=f"chmod 600 {path}")]
    if not wanted:
        seen = f"{path} is there, but RAY_AUTH_MODE is not set to token"
        return [warn("Ray token", seen, fix="export RAY_AUTH_MODE=token")] if named else [ok("Ray token", seen)]
    return [ok("Ray token", f"{path}, which only its owner can read")]


def _in_netrc(environment: Mapping[str, str]) -> bool:
    file = Path(environment.get("NETRC", Path.home() / ".netrc"))
    return file.is_file() and "api.wandb.ai" in file.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Clock:
    """How a node's clock compares with that of the examining host."""

    skew_seconds: float
    """How far it is ahead."""

    within_seconds: float
    """How exactly that is known: half the quickest round trip."""


def version_finding(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Finding:
    """Check that a node has the versions of the examining host (`ours`)."""
    differing = [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]
    if not differing:
        return ok("same versions", f"Python {theirs['python']}, {len(theirs) - 2} packages and code {theirs['code']}")
    worst = sorted(differing, key=lambda name: (name not in _DECISIVE, name))[:_MAX_NAMED]
    named = [f"{name} {theirs.get(name, 'missing')} (here {ours.get(name, 'missing')})" for name in worst]
    num_more = len(differing) - len(named)
    seen = ", ".join(named) + (f" and {num_more} more" if num_more else "")
    if differing == ["code"]:
        return fail("same versions", seen, fix="bring the node's copy of Concord to the same commit: git checkout")
    fix = "on that node, with the same Python: pip install --constraint constraints.txt --editable ."
    return fail("same versions", seen, fix=fix) if _DECISIVE & set(differing) else warn("same versions", seen, fix=fix)


def clock_finding(skew_seconds: float, within_seconds: float) -> Finding:
    """Check that a node's clock agrees with the examining host's; the skew is known to within `within_seconds`."""
    seen = f"{skew_seconds:+.3f} s from the host that asks, to within {within_seconds:.3f} s"
    fix = "timedatectl set-ntp true (or systemctl enable --now chronyd), as root on that node"
    certain = max(0.0, abs(skew_seconds) - within_seconds)
    if certain > BAD_SKEW_SECONDS:
        return fail("clock", seen, fix=fix)
    return warn("clock", seen, fix=fix) if certain > SKEW_SECONDS else ok("clock", seen)
