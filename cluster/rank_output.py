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
from typing import IO

from cluster.host.redact import redact
from configs.base import MIB, UserError

RANKS = "ranks"
"""Name of the directory of these files, beside the work of the ranks."""

MAX_BYTES = 16 * MIB
"""A file that is longer when its rank starts is put aside as `.old`, in the place of the one before."""

_HEADING = re.compile(r"^=== start \d+ on .* ===$", re.MULTILINE)
_TAIL_BYTES, _NUM_LINES, _MAX_CHARACTERS = 65_536, 3, 400


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
    except UserError:  # told in a sentence, elsewhere
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
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in _HEADING.split(text)[-1].splitlines() if line.strip()]
    return redact(" | ".join(lines[-_NUM_LINES:]))[-_MAX_CHARACTERS:]


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
