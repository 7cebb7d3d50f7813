"""Disks: whether the store and the temporary directory can be written, have room, are fast enough, and can lock."""

import errno
import fcntl
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
from cluster.host.programs import ask

MIB, GIB = 2**20, 2**30

FEW_BYTES, TOO_FEW_BYTES = 20 * GIB, 1 * GIB
"""A checkpoint of a model of a billion parameters is 12 GB."""

FEW_INODES = 10_000
SLOW_MIB = 50
"""Per second: at less, a checkpoint of 12 GB takes over four minutes."""

SLOW_SYNC_SECONDS = 0.25
"""Of a small file; each commit waits for several."""

FIXES = {
    errno.EACCES: "chown or chmod {path} for this user",
    errno.EPERM: "chown or chmod {path} for this user",
    errno.EROFS: "mount -o remount,rw, as root, what {path} is on",
    errno.ENOSPC: "remove what is not needed from what {path} is on",
    errno.EDQUOT: "remove files of this user, or have the quota raised (quota -s)",
    errno.ESTALE: "mount what {path} is on anew (a stale NFS handle)",
}
"""By what the system says of a file that cannot be written."""

_CHUNK = bytes(4 * MIB)
_SECONDS = 1.0

_TRY_LOCK = (
    "import fcntl, sys\n"
    "with open(sys.argv[1]) as file:\n"
    "    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "    except BlockingIOError: sys.exit(75)\n"
)


def store_findings(store: Path, *, quick: bool) -> list[Finding]:
    """Checks of the store, or of the directory in which it would be made. Leaves nothing behind."""
    there = nearest(store)
    try:
        room = _room("store space", there)
        if room.level == "FAIL" and os.access(there, os.W_OK):  # which a read-only mount is not
            return [room]
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=there) as name:
            probe = Path(name)
            (probe / "partial").write_bytes(b"x")
            os.replace(probe / "partial", probe / "whole")
            written = ok("store permissions", f"{there}: files can be made, renamed and removed")
            return [written, room, _lock(probe / "whole"), _speed("store speed", probe, quick=quick)]
    except OSError as error:
        here = FIXES.get(error.errno or 0, "check that it is a directory on a disk that works (dmesg)")
        fix = f"{here.format(path=there)}; or give another store: --set store=DIR"
        return [fail("store permissions", f"{there}: {error.strerror}", fix=fix)]


def temporary_findings(*, quick: bool) -> list[Finding]:
    """Checks of the temporary directory, where Ray keeps its logs and sockets."""
    there = Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-") as name:
            return [_room("temporary space", there), _speed("temporary speed", Path(name), quick=quick)]
    except OSError as error:
        return [fail("temporary space", f"{there}: {error.strerror}", fix="set TMPDIR to a directory that is writable")]


@contextmanager
def locked_file(store: Path) -> Iterator[Path]:
    """A locked file in the store, for other hosts to see and to try."""
    with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=nearest(store)) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(file.name)


def sharing_finding(path: Path) -> Finding:
    """Whether a file that another host has locked is here, and locked here too."""
    if not path.exists():
        return fail(
            "store shared",
            f"{path.parent} here is not the directory of that name on the host that asks",
            fix="mount the same file system at that path on every node, or give a store that is: --set store=DIR",
        )
    if ask([sys.executable, "-c", _TRY_LOCK, str(path)]).code == 75:
        return ok("store shared", "the same files and locks as on the host that asks")
    return fail(
        "store shared",
        "a lock that another host holds does not hold here: two runs could write one artifact",
        fix="mount the file system with locks across hosts (NFS: without nolock; Lustre: -o flock)",
    )


def _lock(path: Path) -> Finding:
    """Whether the file system can lock, between processes."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if ask([sys.executable, "-c", _TRY_LOCK, str(path)]).code == 75:
                return ok("store locks", "flock holds")
            seen = "flock does not keep a second process out"
    except OSError as error:
        seen = f"flock: {error.strerror}"
    return fail("store locks", seen, fix="mount the file system with locks (flock), or give another: --set store=DIR")


def _room(check: str, directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    inodes = os.statvfs(directory).f_favail
    seen = f"{free / GIB:.1f} GiB free at {directory}"
    fix = f"remove what is not needed, or use another disk (df -h {directory})"
    if free < TOO_FEW_BYTES:
        return fail(check, seen, fix=fix)
    if 0 < inodes < FEW_INODES:
        return warn(check, f"{seen}, but only {inodes:,} inodes", fix=f"{fix}; df -i shows inodes")
    return warn(check, seen, fix=fix) if free < FEW_BYTES else ok(check, seen)


def _speed(check: str, directory: Path, *, quick: bool) -> Finding:
    """How fast bytes get on disk: at most 256 MiB or about a second of them; 4 MiB when quick."""
    bandwidth, delay = _write(directory / "speed", most=1 if quick else 64), _sync_seconds(directory / "small")
    seen = f"{bandwidth / MIB:,.0f} MiB/s written and synced, {delay * 1e3:.1f} ms to sync a small file"
    if bandwidth >= SLOW_MIB * MIB and delay <= SLOW_SYNC_SECONDS:
        return ok(check, seen)
    fix = f"use a faster disk; iostat -x 1 shows what else writes to {directory.parent}"
    return warn(check, f"{seen}: slow", fix=fix)


def _write(path: Path, *, most: int) -> float:
    """Bytes per second."""
    started, num_chunks = time.perf_counter(), 0
    with path.open("wb", buffering=0) as file:
        while num_chunks < most and time.perf_counter() - started < _SECONDS:
            file.write(_CHUNK)
            num_chunks += 1
        os.fsync(file.fileno())
    return num_chunks * len(_CHUNK) / (time.perf_counter() - started)


def _sync_seconds(path: Path) -> float:
    seconds = []
    with path.open("wb", buffering=0) as file:
        for _ in range(5):
            started = time.perf_counter()
            file.write(b"x")
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return median(seconds)


def nearest(path: Path) -> Path:
    """The path, or the first directory above it that is there."""
    return next(part for part in (path, *path.absolute().parents) if part.exists())
