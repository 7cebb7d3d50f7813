"""Disks: whether the store and the temporary directory can be written, have space, are fast enough, and can lock."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.host.programs import run_program
from cluster.host.temporary import find_problem, ray_directory
from cluster.leases.flock import lock_file
from cluster.storage.errors import FIX_COMMANDS
from configs.base import GIB, MIB

FEW_BYTES, TOO_FEW_BYTES = 20 * GIB, 1 * GIB
"""A checkpoint of a model of a billion parameters is 12 GB."""

FEW_INODES = 10_000
SLOW_MIB = 50
"""Below so many MiB a second, a checkpoint of 12 GB takes over four minutes."""

SLOW_SYNC_SECONDS = 0.25
"""Time to sync a small file; each commit waits for several."""

_CHUNK = bytes(4 * MIB)
_WRITE_SECONDS = 1.0

_LOCKED = 75
_TRY_LOCK = (
    "import fcntl, sys\n"
    "with open(sys.argv[1]) as file:\n"
    "    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    f"    except BlockingIOError: sys.exit({_LOCKED})\n"
)
"""A program that ends with the code _LOCKED if another process has locked the file that it is given."""


def store_findings(store: Path, *, quick: bool) -> list[Finding]:
    """Check the store, or the directory in which it would be made. Leaves nothing behind."""
    directory = nearest_existing(store)
    try:
        space = _space_finding("store space", directory)
        if space.level == "FAIL" and os.access(directory, os.W_OK):  # which a read-only mount is not
            return [space]
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=directory) as name:
            probe = Path(name)
            (probe / "partial").write_bytes(b"x")
            os.replace(probe / "partial", probe / "whole")
            written = ok("store permissions", f"{directory}: files can be made, renamed and removed")
            lock = _lock_finding(probe / "whole")
            return [written, space, lock, _speed_finding("store speed", probe, quick=quick)]
    except OSError as error:
        command = FIX_COMMANDS.get(error.errno or 0, "check that it is a directory on a disk that works (dmesg)")
        fix = f"{command.format(path=directory)}; or give another store: --set store=DIR"
        return [fail("store permissions", f"{directory}: {error.strerror}", fix=fix)]


def temporary_findings(*, quick: bool) -> list[Finding]:
    """Check the temporary directory, where Ray keeps its logs and sockets."""
    if (problem := find_problem()) is not None:
        return [fail("temporary directory", problem.seen, fix=problem.fix)]
    directory, _ = ray_directory()
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=directory / "ray") as name:
            space = _space_finding("temporary space", directory)
            return [space, _speed_finding("temporary speed", Path(name), quick=quick)]
    except OSError as error:  # such as a full disk, which takes a small file and no more
        fix = "free space there, or set RAY_TMPDIR to a directory on another disk"
        return [fail("temporary space", f"{directory}: {error.strerror}", fix=fix)]


@contextmanager
def locked_file(store: Path) -> Iterator[Path]:
    """Keep a locked file in the store during the block, for other hosts to see and to try to lock."""
    with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=nearest_existing(store)) as file:
        lock_file(file)
        yield Path(file.name)


def sharing_finding(path: Path) -> Finding:
    """Check that a file that another host has locked is here, and is locked here too."""
    if not path.exists():
        return fail(
            "store shared",
            f"{path.parent} here is not the directory of that name on the host that asks",
            fix="mount the same file system at that path on every node, or give a store that is: --set store=DIR",
        )
    if _is_locked(path):
        return ok("store shared", "the same files and locks as on the host that asks")
    return fail(
        "store shared",
        "a lock that another host holds does not hold here: two runs could write one artifact",
        fix="mount the file system with locks across hosts (NFS: without nolock; Lustre: -o flock)",
    )


def _is_locked(path: Path) -> bool:
    """Return whether another process of this host, started for that, finds the file locked."""
    return run_program([sys.executable, "-c", _TRY_LOCK, str(path)]).exit_code == _LOCKED


def _lock_finding(path: Path) -> Finding:
    """Check that the file system can lock, between processes."""
    try:
        with path.open() as file:
            lock_file(file)
            if _is_locked(path):
                return ok("store locks", "flock holds")
            seen = "flock does not keep a second process out"
    except OSError as error:
        seen = f"flock: {error.strerror}"
    return fail("store locks", seen, fix="mount the file system with locks (flock), or give another: --set store=DIR")


def _space_finding(check: str, directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    inodes = os.statvfs(directory).f_favail
    seen = f"{free / GIB:.1f} GiB free at {directory}"
    fix = f"remove what is not needed, or use another disk (df -h {directory})"
    if free < TOO_FEW_BYTES:
        return fail(check, seen, fix=fix)
    if 0 < inodes < FEW_INODES:
        return warn(check, f"{seen}, but only {inodes:,} inodes", fix=f"{fix}; df -i shows inodes")
    return warn(check, seen, fix=fix) if free < FEW_BYTES else ok(check, seen)


def _speed_finding(check: str, directory: Path, *, quick: bool) -> Finding:
    """Measure how fast bytes get on disk: at most 256 MiB or about a second of them; 4 MiB when quick."""
    bandwidth = _measure_write(directory / "speed", max_chunks=1 if quick else 64)
    delay = _measure_sync(directory / "small")
    seen = f"{bandwidth / MIB:,.0f} MiB/s written and synced, {delay * 1e3:.1f} ms to sync a small file"
    if bandwidth >= SLOW_MIB * MIB and delay <= SLOW_SYNC_SECONDS:
        return ok(check, seen)
    fix = f"use a faster disk; iostat -x 1 shows what else writes to {directory.parent}"
    return warn(check, f"{seen}: slow", fix=fix)


def _measure_write(path: Path, *, max_chunks: int) -> float:
    """Return the bytes a second of writing a file and syncing it."""
    started, num_chunks = time.perf_counter(), 0
    with path.open("wb", buffering=0) as file:
        while num_chunks < max_chunks and time.perf_counter() - started < _WRITE_SECONDS:
            file.write(_CHUNK)
            num_chunks += 1
        os.fsync(file.fileno())
    return num_chunks * len(_CHUNK) / (time.perf_counter() - started)


def _measure_sync(path: Path) -> float:
    """Return the median seconds of syncing one more byte of a small file."""
    seconds = []
    with path.open("wb", buffering=0) as file:
        for _ in range(5):
            started = time.perf_counter()
            file.write(b"x")
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return median(seconds)


def nearest_existing(path: Path) -> Path:
    """Return the path, or the first directory above it that exists."""
    return next(part for part in (path, *path.absolute().parents) if part.exists())
