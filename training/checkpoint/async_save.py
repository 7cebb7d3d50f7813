"""Asynchronous checkpoints: the training loop stands still only while the state is copied to host memory.

Each rank copies what it owns into one host buffer that it keeps, and a thread writes it, its checksums last. Rank 0's
thread waits until those of all ranks are there, and gives the checkpoint its name. A rank that could not write says so
in the collective that the loop makes in every step anyway. There is one buffer, so a second save waits for the first.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cluster.host.files import sync, write_text
from cluster.storage.errors import ignore_transient, is_transient
from training.accelerator import is_accelerator, wait_for_stream
from training.checkpoint import rank_file
from training.checkpoint.directory import MODEL_CONFIG, commit_checkpoint, partial_directory
from training.checkpoint.fragment_index import FragmentIndex, make_index
from training.records import CheckpointRecord, directory_of
from training.zero.fragments import Fragment

_POLL_SECONDS = 0.02


@dataclass
class _Pending:
    """A save that is under way on this rank."""

    record: CheckpointRecord
    directory: Path
    partial: Path
    entries: list[rank_file.TensorEntry]
    given_up: threading.Event = field(default_factory=threading.Event)
    written: threading.Event = field(default_factory=threading.Event)
    """Set when this rank's files are on disk, or could not be written."""

    named: bool = False
    thread: threading.Thread | None = None
    error: Exception | None = None


class OtherRankFailed(ConnectionError):
    """A save was given up because of another rank, which says why: not the cause of anything."""


class Saver:
    """Saves the part of one rank. `begin` and `advance` are called on all ranks in the same order."""

    def __init__(
        self,
        root: Path,
        *,
        rank: int,
        world_size: int,
        start_id: str,
        model_config: str,
        before: Callable[[], None],
        after: Callable[[], None],
        notify: Callable[[str], None],
        device: torch.device,
    ) -> None:
        """`start_id` is the same on all ranks and new at each restart. On rank 0, in a thread, `before` runs before a
        checkpoint gets its name, and may raise OSError, and `after` when it has it. `notify` passes a sentence to the
        user. `device` is where the state is."""
        self._root, self._rank, self._world_size, self._start_id = root, rank, world_size, start_id
        self._model_config, self._device = model_config, device
        self._before, self._after, self._notify = before, after, notify
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._pending: _Pending | None = None
        self._index: FragmentIndex | None = None
        self.failure: Exception | None = None
        """Why the last save that ended failed; None if it succeeded."""
        self.num_blocks = 0
        """Blocks written so far: it grows while a slow disk still takes data."""

    def begin(self, record: CheckpointRecord, fragments: Iterator[Fragment]) -> None:
        """Copy the state to host memory and start to write it. No save may be under way on any rank."""
        assert self._pending is None
        tensors = {
            rank_file.key(kind, fragment.name, fragment.offset): tensor
            for fragment in fragments
            for kind, tensor in fragment.tensors.items()
        }
        entries = rank_file.layout((key, tensor.dtype, tensor.numel()) for key, tensor in tensors.items())
        self._copy(entries, tensors)
        self._begun = record, entries
        self.begin_again()

    def begin_again(self) -> None:
        """Start to write what the last `begin` copied. No save may be under way on any rank."""
        assert self._pending is None
        record, entries = self._begun
        directory = directory_of(self._root, record.step)
        pending = _Pending(record, directory, partial_directory(directory, self._start_id), entries)
        pending.thread = threading.Thread(target=self._work, args=(pending,), name="checkpoint", daemon=True)
        self._pending = pending
        pending.thread.start()

    @property
    def may_succeed_later(self) -> bool:
        """Whether nothing that does not pass by itself kept this rank from its last save."""
        return self.failure is None or (isinstance(self.failure, OSError) and is_transient(self.failure))

    @property
    def failed(self) -> bool:
        """Whether this rank could not write its part of the save under way; to be summed over ranks for `advance`."""
        pending = self._pending
        return pending is not None and pending.error is not None and not pending.named

    def advance(self, num_failed: int, *, is_last: bool = False) -> None:
        """Note how the save under way ended, if it did; give it up if any of the ranks, `num_failed`, failed.

        Of one that failed the user is notified, unless it is the last: then `failure` ends the training.
        """
        pending = self._pending
        if num_failed:
            self.failure = OtherRankFailed("another rank could not write its part of the checkpoint")
            if pending is not None:
                self._give_up(pending, is_last=is_last)
        elif pending is not None and self.wait(0):
            if pending.error is None:
                self._pending, self.failure = None, None
            elif pending.named:  # old ones could not be deleted
                self._give_up(pending, is_last=is_last)

    def wait_for_files(self, seconds: float) -> bool:
        """Wait at most so long for this rank's file, and return whether it is written."""
        return self._pending is None or self._pending.written.wait(seconds)

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for this rank's thread (rank 0's writes last, for all), and return whether it ended."""
        thread = self._pending.thread if self._pending else None
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def _copy(self, entries: list[rank_file.TensorEntry], tensors: dict[str, torch.Tensor]) -> None:
        num_bytes = entries[-1].stop if entries else 0
        if self._buffer.numel() != num_bytes:
            self._buffer = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=is_accelerator(self._device))
        for entry in entries:
            self._buffer[entry.start : entry.stop].view(entry.dtype).copy_(tensors[entry.key], non_blocking=True)
        wait_for_stream(self._device)

    def _work(self, pending: _Pending) -> None:
        try:
            self._write(pending)
            if self._rank == 0 and self._all_written(pending):
                self._before()
                sync(pending.partial)
                if self._index is None:  # the same parts are on the same ranks in every save
                    self._index = make_index(pending.partial, world_size=self._world_size)
                commit_checkpoint(pending.partial, pending.directory, pending.record, self._index)
                pending.named = True
                self._after()
        except Exception as error:
            pending.error = error  # _give_up reports it, or raises it if it is a bug
        finally:
            pending.written.set()

    def _write(self, pending: _Pending) -> None:
        pending.partial.mkdir(parents=True, exist_ok=True)
        if self._rank == 0:
            write_text(pending.partial / MODEL_CONFIG, self._model_config)
        prefix = pending.partial / rank_file.file_stem(self._rank, self._world_size)
        rank_file.write(prefix, pending.entries, self._buffer, on_progress=self._progress)
        pending.written.set()

    def _all_written(self, pending: _Pending) -> bool:
        """Wait for the last file of every rank; return False if the save is given up meanwhile."""
        names = [f"{rank_file.file_stem(rank, self._world_size)}.json" for rank in range(self._world_size)]
        while not all((pending.partial / name).exists() for name in names):
            if pending.given_up.wait(_POLL_SECONDS):
                return False
        return True

    def _progress(self) -> None:
        self.num_blocks += 1

    def _give_up(self, pending: _Pending, *, is_last: bool) -> None:
        pending.given_up.set()
        assert pending.thread is not None
        pending.thread.join()
        self._pending = None
        if pending.error is not None:
            self.failure = None if pending.named else pending.error
            if not isinstance(pending.error, OSError):
                raise pending.error
        with ignore_transient():  # what stays is deleted at the next start
            for file in pending.partial.glob(f"*{rank_file.file_stem(self._rank, self._world_size)}*"):
                file.unlink(missing_ok=True)
        if self._rank == 0:
            shutil.rmtree(pending.partial, ignore_errors=True)  # other ranks are at it too
        if isinstance(pending.error, OSError) and (pending.named or not is_last):
            self._notify(_describe_failure(pending, pending.error))


def _describe_failure(pending: _Pending, error: OSError) -> str:
    if pending.named:
        return f"older checkpoints could not be deleted ({error.strerror}); training goes on, and tries again"
    return (
        f"the checkpoint of step {pending.record.step} could not be written ({error.strerror}); the checkpoints before "
        "it are kept, and training goes on while it has steps to take"
    )
