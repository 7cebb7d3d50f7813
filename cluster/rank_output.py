"""What the ranks of a gang print, in files beside the work: one a rank, to which each start of the rank appends.

Libraries below Python print there too (NCCL's warnings, the assertions of CUDA, the last words of a process that
aborts), so the file takes the place of the process's standard output and error themselves.
"""

import io
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from cluster.host.redact import redact
from configs.base import MIB, UserError

RANKS = "ranks"
"""Name of the directory of these files, beside the work of the ranks."""

MAX_BYTES = 16 * MIB
"""A file that is longer when its rank starts is put aside as `.old`, in the place of the one before."""

_HEADING = re.compile(r"^=== start \d+ on .* ===$", re.MULTILINE)
_TAIL_BYTES, _NUM_LINES, _MAX_CHARACTERS = 65_536, 3, 400


Ended = Literal["hung", "waited", "aborted"]
"""Why a rank has ended itself: nothing went on, because the others waited for it, or it for them; or a library aborted
the process, as NCCL does when a peer is gone. The last two are no evidence against its host."""

_SIGNAL = re.compile(r"^\*\*\* (SIG[A-Z]+) received", re.MULTILINE)
"""What Ray prints in a process that a signal of its own ends."""

_OF_STACKS = re.compile(
    r"\*\*\* SIG|===|@ |PC: |File \"|Stack \(|Thread 0x|Current thread|Extension modules|.* logging\.cc:"
)
"""Beginnings of lines that say nothing of why a process ended."""


def output_file(directory: Path, rank: int) -> Path:
    """Return the file of what a rank prints."""
    return directory / f"rank-{rank:05d}.log"


@contextmanager
def redirect_output(path: Path, *, start: int) -> Iterator[None]:
    """Append what this process prints in the block to a file, after a heading with the number of the start.

    An exception's traceback is printed there too. A full disk loses what is printed, and ends nothing; if the file
    cannot be opened, the output stays where it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_BYTES:
            path.replace(path.with_suffix(".old"))
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        print(f"{path} cannot be written ({error.strerror})", file=sys.stderr)
        yield
        return
    streams, kept = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    _flush(*streams)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)
    sys.stdout, sys.stderr = _LossyText(1), _LossyText(2)
    print(f"=== start {start} on {socket.gethostname()}, process {os.getpid()}, {_time()} ===")
    try:
        yield
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise
    except Exception:
        traceback.print_exc()
        raise
    finally:
        _flush(sys.stdout, sys.stderr, *streams)
        sys.stdout, sys.stderr = streams
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)


def last_words(path: Path) -> str:
    """Return the last lines that a rank printed since its last start, on one line; empty if there are none."""
    lines = [line.strip() for line in _read_last_start(path).splitlines()]
    lines = [line for line in lines if line and not _OF_STACKS.match(line)]
    return redact(" | ".join(lines[-_NUM_LINES:]))[-_MAX_CHARACTERS:]


def print_end(why: Literal["hung", "waited"]) -> None:
    """Print, as the last that this rank prints, why it ends itself.

    Of most ends Ray says no more than that the process is gone: neither an exit code nor a signal.
    """
    print(f"=== ended: {why} ===", file=sys.stderr, flush=True)


def read_end(path: Path) -> Ended | None:
    """Return why a rank has ended itself since its last start; None if it has not said so."""
    text = _read_last_start(path)
    found = re.findall(r"^=== ended: (hung|waited) ===$", text, re.MULTILINE)
    return found[-1] if found else "aborted" if "SIGABRT" in _SIGNAL.findall(text) else None


def read_signal(path: Path) -> str | None:
    """Return the name of the signal that ended a rank since its last start, if it has printed one."""
    return next(iter(_SIGNAL.findall(_read_last_start(path))), None)


def _read_last_start(path: Path) -> str:
    """Return the end of what a rank printed since its last start; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return _HEADING.split(text)[-1]


class _LossyText(io.TextIOWrapper):
    """Text to a file descriptor; what cannot be written, as on a full disk, is lost."""

    def __init__(self, descriptor: int) -> None:
        raw = open(descriptor, "wb", buffering=0, closefd=False)  # noqa: SIM115  # closed with this
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _flush(*streams: IO[str] | None) -> None:
    for stream in streams:
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]  # None is an AttributeError


def _time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
