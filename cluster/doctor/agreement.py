"""Whether nodes agree with the host that asks: versions, code, clocks. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.doctor.report import Finding, fail, ok, warn

SKEW_SECONDS, BAD_SKEW_SECONDS = 1.0, 60.0
"""Tokens and munge's credentials are good for minutes; logs are read by the second."""

_DECIDE = frozenset(
    {"python", "code", "ray", "torch", "deepspeed", "transformers", "tokenizers", "numpy", "pydantic", "safetensors"}
)
"""With another of these a node fails, or makes something else."""

_MOST = 6


@dataclass(frozen=True)
class Clock:
    """What a node's clock says."""

    skew_seconds: float
    """Ahead of that of the host that asks."""

    within_seconds: float
    """Half the quickest round trip."""


def version_finding(here: Mapping[str, str], there: Mapping[str, str]) -> Finding:
    """Whether a node has the versions that the host that asks has."""
    others = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if not others:
        return ok("same versions", f"Python {there['python']}, {len(there) - 2} packages and code {there['code']}")
    worst = sorted(others, key=lambda name: (name not in _DECIDE, name))
    shown = [f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})" for name in worst[:_MOST]]
    seen = ", ".join(shown) + (f" and {len(others) - _MOST} more" if len(others) > _MOST else "")
    if set(others) == {"code"}:
        return fail("same versions", seen, fix="bring the node's copy of Concord to the same commit: git checkout")
    fix = "on that node, with the same Python: pip install --constraint constraints.txt --editable ."
    return fail("same versions", seen, fix=fix) if _DECIDE & set(others) else warn("same versions", seen, fix=fix)


def clock_finding(skew_seconds: float, within_seconds: float) -> Finding:
    """Whether a node's clock agrees with that of the host that asks; `within_seconds` is what the skew is known to."""
    seen = f"{skew_seconds:+.3f} s from the host that asks, to within {within_seconds:.3f} s"
    fix = "timedatectl set-ntp true (or systemctl enable --now chronyd), as root on that node"
    sure = max(0.0, abs(skew_seconds) - within_seconds)
    if sure > BAD_SKEW_SECONDS:
        return fail("clock", seen, fix=fix)
    return warn("clock", seen, fix=fix) if sure > SKEW_SECONDS else ok("clock", seen)
