"""Faults that no host can be made to have: a GPU that fails, a file system whose handles are stale, a store of its own.

`prepared` puts what is needed into the environment of all processes that are started after it. Nothing happens in them
until `fail_device` sends a rank SIGUSR2, on which it raises what PyTorch raises of a GPU's memory error; or until
`stale` names a directory, below which opening, listing and asking for files fails with ESTALE, in Python and below.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_RAISE = """
import signal

def fail(number, frame):
    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

signal.signal(signal.SIGUSR2, fail)
"""
"""Imported by each Python when it starts (sitecustomize)."""

_STALE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <dirent.h>

static int stale(const char *path) {
    char target[4096];
    const char *flag = getenv("CONCORD_STALE");
    ssize_t length = flag ? readlink(flag, target, sizeof target) : -1;
    if (length <= 0 || !path || strncmp(path, target, length)) return 0;
    errno = ESTALE;
    return 1;
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))
#define OPEN(name, at, ...) \
    int name at { \
        mode_t mode = 0; \
        va_list rest; \
        if (stale(path)) return -1; \
        va_start(rest, flags); \
        if (flags & (O_CREAT | O_TMPFILE)) mode = va_arg(rest, mode_t); \
        va_end(rest); \
        return REAL(name)(__VA_ARGS__, mode); \
    }
OPEN(open, (const char *path, int flags, ...), path, flags)
OPEN(open64, (const char *path, int flags, ...), path, flags)
OPEN(openat, (int at, const char *path, int flags, ...), at, path, flags)
OPEN(openat64, (int at, const char *path, int flags, ...), at, path, flags)
#define CALL(name, parameters, ...) int name parameters { return stale(path) ? -1 : REAL(name)(__VA_ARGS__); }
CALL(stat, (const char *path, struct stat *found), path, found)
CALL(lstat, (const char *path, struct stat *found), path, found)
CALL(stat64, (const char *path, struct stat64 *found), path, found)
CALL(lstat64, (const char *path, struct stat64 *found), path, found)
CALL(fstatat, (int at, const char *path, struct stat *found, int flags), at, path, found, flags)
CALL(fstatat64, (int at, const char *path, struct stat64 *found, int flags), at, path, found, flags)
CALL(statx, (int at, const char *path, int flags, unsigned mask, struct statx *found), at, path, flags, mask, found)
CALL(access, (const char *path, int mode), path, mode)
CALL(unlink, (const char *path), path)
CALL(mkdir, (const char *path, mode_t mode), path, mode)
CALL(rename, (const char *path, const char *to), path, to)
DIR *opendir(const char *path) { return stale(path) ? NULL : REAL(opendir)(path); }
"""


@contextmanager
def prepared(directory: Path) -> Iterator[None]:
    """Make what the faults need in a directory, for the processes that are started in the block. Needs a C compiler."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sitecustomize.py").write_text(_RAISE, encoding="utf-8")
    source, library = directory / "stale.c", directory / "stale.so"
    source.write_text(_STALE, encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True)
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(directory), before.get("PYTHONPATH", "")]))
    os.environ |= {"LD_PRELOAD": str(library), "CONCORD_STALE": str(_flag(directory))}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def fail_device(pid: int) -> None:
    """Have a rank raise what PyTorch raises when the memory of a GPU has failed."""
    os.kill(pid, signal.SIGUSR2)


def stale(directory: Path, place: Path, *, seconds: float) -> None:
    """Have all that is below `place` fail with ESTALE for a while; `directory` is that of `prepared`."""
    _flag(directory).symlink_to(place)
    try:
        time.sleep(seconds)
    finally:
        _flag(directory).unlink()


@contextmanager
def small_disk(place: Path, *, mebibytes: int) -> Iterator[None]:
    """Mount a disk of its own at `place`, for hosts that are made in the block. Needs root."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "concord", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path, *, seconds: float) -> None:
    """Fill the disk at `place` for a while."""
    filler = place / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65_536))
    time.sleep(seconds)
    filler.unlink()


def _flag(directory: Path) -> Path:
    return directory / "stale"
