"""Python, packages, compiler and Concord's own code: what is there, and whether it is what is asked for."""

import hashlib
import os
import platform
import re
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cluster.doctor.report import Finding, fail, ok, warn

ROOT = Path(__file__).parents[2]
"""Where Concord's packages are."""

_NAME = "concord-train"
_INSTALL = "python -m pip install --constraint constraints.txt --editable ."
_PACKAGES = ("configs", "cluster", "data_prep", "training", "eval", "pipeline")


def python_finding() -> Finding:
    """Whether this Python is one that Concord runs on."""
    wanted = SpecifierSet(_project().get("requires-python", ">=3.11"))
    seen = f"{platform.python_version()} at {sys.executable}"
    if platform.python_version() in wanted:
        return ok("Python", seen)
    return fail("Python", f"{seen}, but Concord needs {wanted}", fix="make .venv with one: make PYTHON=python3.11 test")


def package_findings() -> list[Finding]:
    """Whether the packages that Concord asks for are there, at versions that it allows, and at the tested ones."""
    asked = [requirement for requirement in _requirements() if _applies(requirement)]
    found = {requirement.name: installed(requirement.name) for requirement in asked}
    wrong = [
        f"{r.name} {found[r.name] or 'is missing'} ({r.specifier or 'any'})"
        for r in asked
        if found[r.name] is None or not r.specifier.contains(str(found[r.name]), prereleases=True)
    ]
    if wrong:
        return [fail("packages", ", ".join(wrong), fix=_INSTALL)]
    return [ok("packages", f"{len(asked)} as pyproject.toml asks"), *_tested()]


def compiler_finding(*, needed: bool) -> Finding:
    """Whether C++ can be compiled, which only some settings of a pool need."""
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


def versions() -> dict[str, str]:
    """Versions of Python, of the packages asked for that are there, and a digest of Concord's code."""
    packages = {r.name: installed(r.name) for r in _requirements() if _applies(r)}
    return {
        "python": platform.python_version(),
        "code": code_digest(),
        **{name: text for name, text in sorted(packages.items()) if text is not None},
    }


def code_digest() -> str:
    """Twelve hex digits that stand for the Python files of Concord's packages."""
    digest = hashlib.sha256()
    for path in sorted(path for package in _PACKAGES for path in (ROOT / package).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def installed(package: str) -> str | None:
    """The version of an installed package; None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tested() -> list[Finding]:
    """Whether installed packages have the versions of constraints.txt, where that stands."""
    file = ROOT / "constraints.txt"
    if not file.exists():
        return []
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: installed(name) for name, _ in pins}
    others = [f"{name} {found[name]} (tested {pin})" for name, pin in pins if found[name] and not _is(found[name], pin)]
    if not others:
        return [ok("tested versions", f"{sum(map(bool, found.values()))} packages as in constraints.txt")]
    more = f" and {len(others) - 8} more" if len(others) > 8 else ""
    return [warn("tested versions", ", ".join(others[:8]) + more, fix=_INSTALL)]


def _is(found: str | None, pin: str) -> bool:
    return SpecifierSet(f"=={pin}").contains(str(found), prereleases=True)  # 2.13.0+cpu is 2.13.0


def _project() -> dict[str, str]:
    """The table [project] of pyproject.toml; empty where only the package is installed."""
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
