"""Remembers nodes that keep failing, so that a run leaves them out. Must not import ray: `concord status` reads it."""

import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from cluster.host.console import print_line
from cluster.storage.errors import ignore_transient

MAX_FAILURES = 2
WITHIN_SECONDS = 86_400.0
"""A node that failed so often within a day is avoided: once is bad luck, twice a habit."""


class NodeFailures:
    """Which hosts have failed when and why: lines of JSON in a file that all attempts of a run share."""

    def __init__(self, path: Path | None) -> None:
        """`path` is the file; without one the failures are known to this process alone."""
        self._path = path
        self._known: list[tuple[str, float, int]] = []

    def add(self, host: str, *, reason: str, is_certain: bool = False) -> None:
        """Note that a host has failed now; it is avoided at once if that is certain to come again.

        What cannot be written, on a full disk, is known to this process alone.
        """
        now, count = time.time(), MAX_FAILURES if is_certain else 1
        self._known.append((host, now, count))
        if self._path is None:
            return
        line = json.dumps({"host": host, "time": now, "reason": reason, "count": count})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            print_line(f"{self._path} could not be written ({error.strerror}): {host} failed: {reason}")

    def avoided(self) -> frozenset[str]:
        """Return the hosts that have failed MAX_FAILURES times within the last day."""
        since = time.time() - WITHIN_SECONDS
        counts = Counter[str]()
        for host, when, count in {*self._known, *self._written()}:
            counts[host] += count if when > since else 0
        return frozenset(host for host, count in counts.items() if count >= MAX_FAILURES)

    def _written(self) -> list[tuple[str, float, int]]:
        if self._path is None:
            return []
        lines: list[str] = []
        with suppress(FileNotFoundError), ignore_transient():  # what this process saw itself is known all the same
            lines = self._path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]  # a full disk leaves halves
        return [(row["host"], row["time"], row.get("count", 1)) for row in rows]
