"""What the doctor found: one finding a check and host, each with what was seen and what to do."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from configs.base import StartUpError

Level = Literal["OK", "WARN", "FAIL"]


class Finding(BaseModel):
    """What one check saw on one host."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    level: Level
    """WARN: work goes on, slower or less safely. FAIL: it will not."""

    seen: str
    fix: str = ""
    """A command to give or a key to set; empty where all is well."""

    host: str = ""
    """The node; empty for what is not of one node."""


class Report(BaseModel):
    """All findings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    quick: bool
    findings: tuple[Finding, ...]
    versions: dict[str, dict[str, str]] = {}
    """By host, versions of Python, packages and code."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is FAIL."""
        return all(finding.level != "FAIL" for finding in self.findings)

    @property
    def failing_hosts(self) -> frozenset[str]:
        """Nodes with a FAIL of their own: a run can leave them out."""
        return frozenset(finding.host for finding in self._failing if finding.host)

    def failures(self) -> list[str]:
        """One sentence for each FAIL of a node, which a run can leave out; `raise_if_hopeless` says the others."""
        return [f"{finding.host}: {_sentence(finding)}" for finding in self._failing if finding.host]

    def raise_if_hopeless(self) -> None:
        """Raise StartUpError if a FAIL is not of one node, or every node has one."""
        if general := [_sentence(finding) for finding in self._failing if not finding.host]:
            raise StartUpError("\n".join(general))
        hosts = {finding.host for finding in self.findings if finding.host}
        if hosts and hosts == self.failing_hosts:
            checks = ", ".join(sorted({finding.check for finding in self._failing}))
            raise StartUpError(f"every node fails the check ({checks}); `concord doctor` says how to mend each")

    @property
    def _failing(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "FAIL"]


def _sentence(finding: Finding) -> str:
    return f"{finding.check}: {finding.seen}; {finding.fix}"


def ok(check: str, seen: str) -> Finding:
    """All is well."""
    return Finding(check=check, level="OK", seen=seen)


def warn(check: str, seen: str, *, fix: str) -> Finding:
    """Work goes on, slower or less safely."""
    return Finding(check=check, level="WARN", seen=seen, fix=fix)


def fail(check: str, seen: str, *, fix: str) -> Finding:
    """Work will not go on."""
    return Finding(check=check, level="FAIL", seen=seen, fix=fix)


def on(host: str, findings: Sequence[Finding]) -> list[Finding]:
    """The same findings, as those of a host."""
    return [finding.model_copy(update={"host": host}) for finding in findings]
