"""SHA-256 of source files, remembered in the store until a file's size, time or place changes."""

import json
import os
from contextlib import suppress
from pathlib import Path

from cluster.host.files import sha256_of, write_text

FILE = ".digests.json"


class Digests:
    """A callable from a path to the SHA-256 of its bytes."""

    def __init__(self, store: Path) -> None:
        self._path = store / FILE
        self._known = self._load()
        self._changed = False

    def __call__(self, path: Path) -> str:
        stat = path.stat()
        seen = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino]
        key = os.path.abspath(path)
        if key not in self._known or self._known[key][:-1] != seen:
            self._known[key] = [*seen, sha256_of(path)]
            self._changed = True
        return str(self._known[key][-1])

    def save(self) -> None:
        """Remember what was found, if there is a store and it can be written."""
        if self._changed and self._path.parent.is_dir():
            with suppress(OSError):  # only a memory: files are read again
                write_text(self._path, json.dumps(self._known))

    def _load(self) -> dict[str, list[int | str]]:
        try:
            known: dict[str, list[int | str]] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # only a memory: it is made again
            return {}
        return known if isinstance(known, dict) else {}
