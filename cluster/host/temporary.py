"""The directory for temporary files in which a Ray of this machine has its sockets and logs."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

MAX_SOCKET_BYTES = 107
"""Longest path of a socket: the size of sockaddr_un's sun_path (unix(7)), less the byte that ends it."""

_SOCKET = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""Ray's socket with the longest path, below the directory."""


@dataclass(frozen=True)
class TemporaryProblem:
    """Why Ray cannot work in its directory for temporary files."""

    seen: str
    fix: str


def ray_directory() -> tuple[Path, str]:
    """Return Ray's directory for temporary files, and the variable that names it; empty if none does."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in os.environ:
            return Path(os.environ[name]), name
    return Path("/tmp"), ""


def find_problem() -> TemporaryProblem | None:
    """Return why a Ray that this process starts could not put its sockets and logs there; None if it could."""
    directory, variable = ray_directory()
    name = f"{variable} is {directory}" if variable else f"Ray's directory for temporary files is {directory}"
    fix = "set RAY_TMPDIR, or TMPDIR, to a directory that this user can write, such as /tmp"
    if variable and not os.environ[variable]:
        return TemporaryProblem(f"{variable} is set and empty, which to Ray is the working directory", fix)
    if not directory.is_absolute():
        return TemporaryProblem(f"{name}, which does not begin with /", fix)
    if not directory.is_dir():
        return TemporaryProblem(f"{name}, which is no directory", fix)
    longest = MAX_SOCKET_BYTES - len(_SOCKET.format(pid=os.getpid())) - 1
    length = len(os.fsencode(directory.absolute()))
    if length > longest:
        return TemporaryProblem(
            f"{name}, in which Ray cannot put its sockets: its path has {length} bytes, and may have {longest}",
            "set RAY_TMPDIR to a directory with a shorter path on a disk of this machine, such as /tmp",
        )
    try:
        below = directory / "ray"
        below.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=below):
            pass
    except OSError as error:
        return TemporaryProblem(f"{name}, in which Ray cannot write ({error.strerror})", fix)
    return None
