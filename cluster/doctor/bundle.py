"""What to attach to a report of a bug: one archive, with the secrets taken out of all of it."""

import io
import json
import os
import platform
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster.doctor.report import Report
from cluster.host.files import whole_file
from cluster.host.programs import Answer, ask
from cluster.host.redact import redact
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.secrets import REDACTED, is_secret

LOG_BYTES = 200_000
"""Of each log, from its end."""


def write_bundle(
    path: Path, report: Report, *, machines: ClusterConfig, cluster_file: Path, logs: Sequence[Path] = ()
) -> None:
    """Write a `.tar.gz` whole: the report, versions, the environment, the cluster file, what nvidia-smi and Ray say of
    themselves, and the ends of logs. Raises UserError if the file cannot be written."""
    try:
        with whole_file(path) as partial, tarfile.open(partial, "w:gz") as archive:
            for name, text in _texts(report, machines, cluster_file, logs):
                data = redact(text).encode()
                entry = tarfile.TarInfo(f"concord-doctor/{name}")
                entry.size, entry.mtime = len(data), int(time.time())
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise UserError(f"the bundle {path} cannot be written ({error.strerror}); give another file") from error


def check_bundle(path: Path) -> None:
    """Raise UserError at once if a bundle could not be put there."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a directory" if path.is_dir() else f"is in {path.parent}, which is no directory"
        raise UserError(f"--bundle {path} {what}; give a file in a directory that is there, such as report.tar.gz")


def _texts(
    report: Report, machines: ClusterConfig, cluster_file: Path, logs: Sequence[Path]
) -> Iterator[tuple[str, str]]:
    yield "report.json", report.model_dump_json(indent=2)
    yield "machine.json", json.dumps({"python": sys.version, "platform": platform.platform(), "cpus": os.cpu_count()})
    yield "environment.json", json.dumps(_environment(os.environ), indent=2)
    yield "cluster.yaml", cluster_file.read_text(encoding="utf-8")
    yield "pip-freeze.txt", _said(ask([sys.executable, "-m", "pip", "freeze"], seconds=60))
    yield "nvidia-smi.txt", _said(ask(["nvidia-smi", "-q"], seconds=60))
    if machines.executor == "ray" and machines.ray_address != "local":
        ray = str(Path(sys.executable).parent / "ray")
        yield "ray-status.txt", _said(ask([ray, "status", "--address", machines.ray_address], seconds=60))
    for index, log in enumerate(logs):
        yield f"logs/{index}-{log.name}", _end(log)


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: REDACTED if is_secret(name) else redact(value) for name, value in sorted(environment.items())}


def _said(answer: Answer) -> str:
    return answer.text if answer.fine else f"(exit code {answer.code}) {answer.text}"


def _end(log: Path) -> str:
    """The last bytes of a file, from the beginning of a line on: half a secret would not look like one."""
    with log.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - LOG_BYTES)
        file.seek(start)
        if start:
            file.readline()
        return file.read().decode("utf-8", errors="replace")
