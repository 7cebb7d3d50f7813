"""Steps that take what another step is making while it makes it, each in a thread of its own.

Artifacts are whole or not there, and a killed stage goes on where it was: so a thread may be left behind when the run
ends, as if it had been killed.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.host.console import print_line
from configs.base import Abandoned, Artifact, Manifest, Unfinished
from configs.text import one_line

SECONDS_BETWEEN_LOOKS = 0.5


class Follower:
    """A step that follows another."""

    def __init__(
        self,
        make: Callable[[Mapping[str, Any]], Artifact[Manifest]],
        inputs: Mapping[str, Any],
        slots: Collection[str],
        leader: Path,
        progress: str,
        find: Callable[[], Artifact[Manifest] | None],
    ) -> None:
        """Begin to `make` the step of `inputs` and, in each of `slots`, what is made in the directory `leader`.

        That is when the file `progress` grows there: then the leader has its workers, of which it may need all.
        """
        self._progress, self._started = leader / progress, time.time()
        self._is_abandoned = threading.Event()
        self._made: Artifact[Manifest] | None = None
        self._find = find
        unfinished = Unfinished(leader, self._find_manifest)
        self._thread = threading.Thread(
            target=self._run, args=(make, {**inputs, **dict.fromkeys(slots, unfinished)}), daemon=True
        )
        self._thread.start()

    def join(self) -> Artifact[Manifest] | None:
        """Wait for the step, when what it follows is made; return None if it failed, and is to be made again."""
        self._thread.join()
        return self._made

    def abandon(self) -> None:
        """Have the step end soon, since what it follows failed."""
        self._is_abandoned.set()

    def _has_grown(self) -> bool:
        with suppress(OSError):
            return self._progress.is_file() and self._progress.stat().st_mtime >= self._started
        return False

    def _find_manifest(self) -> Manifest | None:
        if self._is_abandoned.is_set():
            raise Abandoned
        found = self._find()
        return found.manifest if found else None

    def _run(self, make: Callable[[Mapping[str, Any]], Artifact[Manifest]], inputs: Mapping[str, Any]) -> None:
        try:
            while not self._has_grown() and self._find_manifest() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            self._made = make(inputs)
        except Abandoned:
            return
        except BaseException as error:  # of whatever kind: the run goes on, and makes the step again at its turn
            if not self._is_abandoned.is_set():
                print_line(f"a step beside the training stopped, and is begun again after it: {one_line(error)}")
