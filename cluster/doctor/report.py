"""What the doctor found: one finding a check and host, each with what was seen and what to do; and the bundle of it."""

import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cluster.host.files import whole_file
from cluster.host.programs import run_program
from cluster.host.redact import redact
from cluster.storage.errors import error_class
from configs.base import StartUpError, UserError
from configs.cluster import ClusterConfig
from configs.secrets import REDACTED, is_secret

LOG_BYTES = 200_000
"""How much of each log goes into a bundle, from its end."""

_BUNDLE_SECONDS = 60.0
"""Time limit of each program whose output goes into a bundle."""

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
    """Versions of Python, packages and code, by host."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is FAIL."""
        return all(finding.level != "FAIL" for finding in self.findings)

    @property
    def failing_hosts(self) -> frozenset[str]:
        """Nodes with a FAIL of their own: a run can leave them out."""
        return frozenset(finding.host for finding in self._failing if finding.host)

    def failures(self) -> list[str]:
        """Return one sentence for each FAIL of a node, which a run can leave out.

        The other FAILs are in the error of `raise_if_hopeless`.
        """
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
    """Make a finding that all is well."""
    return Finding(check=check, level="OK", seen=seen)


def warn(check: str, seen: str, *, fix: str) -> Finding:
    """Make a finding with which work goes on, slower or less safely."""
    return Finding(check=check, level="WARN", seen=seen, fix=fix)


def fail(check: str, seen: str, *, fix: str) -> Finding:
    """Make a finding with which work will not go on."""
    return Finding(check=check, level="FAIL", seen=seen, fix=fix)


def fail_with_error(check: str, error: UserError) -> Finding:
    """Make the FAIL that an error's sentence describes: what is wrong, a semicolon, what to do."""
    seen, _, fix = str(error).partition("; ")
    return fail(check, seen, fix=fix)


def on_host(host: str, findings: Sequence[Finding]) -> list[Finding]:
    """Return the same findings as those of a host."""
    return [finding.model_copy(update={"host": host}) for finding in findings]


def write_bundle(
    path: Path, report: Report, *, machines: ClusterConfig, cluster_file: Path, logs: Sequence[Path] = ()
) -> None:
    """Write a `.tar.gz` to attach to a report of a bug, with the secrets taken out of all of it.

    It holds the report, versions, the environment, the cluster file, what nvidia-smi and Ray say of themselves, and the
    ends of logs, and appears whole. Raises UserError if the file cannot be written.
    """
    try:
        with whole_file(path) as partial, tarfile.open(partial, "w:gz") as archive:
            for name, text in _bundle_texts(report, machines, cluster_file, logs):
                data = redact(text).encode()
                entry = tarfile.TarInfo(f"concord-doctor/{name}")
                entry.size, entry.mtime = len(data), int(time.time())
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise error_class(error)(
            f"the bundle {path} cannot be written ({error.strerror}); give another file"
        ) from error


def check_bundle(path: Path) -> None:
    """Raise UserError at once if a bundle could not be put there."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else f"is in {path.parent}, which is no directory"
        raise UserError(f"--bundle {path} {what}; give a file in a directory that is there, such as report.tar.gz")


def _bundle_texts(
    report: Report, machines: ClusterConfig, cluster_file: Path, logs: Sequence[Path]
) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file, not yet redacted."""
    yield "report.json", report.model_dump_json(indent=2)
    yield "machine.json", json.dumps({"python": sys.version, "platform": platform.platform(), "cpus": os.cpu_count()})
    yield "environment.json", json.dumps(_redacted_environment(os.environ), indent=2)
    yield "cluster.yaml", cluster_file.read_text(encoding="utf-8")
    yield "pip-freeze.txt", _output_of([sys.executable, "-m", "pip", "freeze"])
    yield "nvidia-smi.txt", _output_of(["nvidia-smi", "-q"])
    if machines.executor == "ray" and machines.ray_address != "local":
        ray = str(Path(sys.executable).parent / "ray")
        yield "ray-status.txt", _output_of([ray, "status", "--address", machines.ray_address])
    for index, log in enumerate(logs):
        yield f"logs/{index}-{log.name}", _read_end(log)


def _redacted_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: REDACTED if is_secret(name) else redact(value) for name, value in sorted(environment.items())}


def _output_of(command: Sequence[str]) -> str:
    result = run_program(command, timeout_seconds=_BUNDLE_SECONDS)
    return result.output if result.ok else f"(exit code {result.exit_code}) {result.output}"


def _read_end(log: Path) -> str:
    """Return the last bytes of a file, from the beginning of a line on: half a secret would not look like one."""
    with log.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - LOG_BYTES)
        file.seek(start)
        if start:
            file.readline()
        return file.read().decode("utf-8", errors="replace")
