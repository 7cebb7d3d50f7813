"""The engine of a run and how far it is; both are found again after a kill, and after a roll-back."""

import socket
import time
import uuid
from dataclasses import replace
from pathlib import Path

import torch

from cluster.executor import Rank
from configs.base import UserError
from training.checkpoint import directory as checkpoint
from training.checkpoint.restore import Progress, drop_void, load_checkpoint, progress_of, restore, set_aside_newer
from training.checkpoint.rollbacks import add_rollback, position_after, read_rollbacks
from training.data.batches import check_same_order
from training.init.locate import find_checkpoint
from training.job import Job
from training.log.metrics_file import FILE as METRICS
from training.log.notices import Notices
from training.loop.build import Built, build
from training.loop.spikes import Trouble
from training.loop.watchdog import FIRST_STEP, Watchdog
from training.manifests import counted
from training.records import OrderRecord, Rollback

CHECKPOINTS = "checkpoints"


class Course:
    """What a rank has of the run. `resume` is collective."""

    def __init__(self, rank: Rank, job: Job, order: OrderRecord, dog: Watchdog, notices: Notices) -> None:
        self._rank, self._job, self._order, self._dog, self._notices = rank, job, order, dog, notices
        self.root = job.out / CHECKPOINTS
        self.first, self._continued = self._beginning()
        self.attempt, has_checkpoints = self._clear_and_agree()
        self.built = self._build(initial=not has_checkpoints)
        self._as_built = not has_checkpoints
        """Whether the engine has the weights that the run begins with, and not what a damaged checkpoint left in it."""
        self.progress = self._load()

    @property
    def engine(self) -> object:
        """DeepSpeed's."""
        return self.built.engine

    def resume(self) -> None:
        """Load the newest checkpoint that counts, or begin where this run began."""
        self.attempt, _ = self._clear_and_agree()
        self.progress = self._load()

    def roll_back(self, trouble: Trouble, *, first_place: int) -> None:
        """Resume from before the trouble, whose data begins at `first_place`, and leave that data out. Collective.

        Raises UserError if that was done often enough.
        """
        done = self.progress.num_rollbacks - self.first.num_rollbacks
        if done >= self._job.config.stability.max_rollbacks:
            raise UserError(
                f"{trouble.reason}, after step {self.progress.step} and {counted(done, 'roll-back')}; lower the "
                f"learning rate, lengthen the warm-up, or look at {METRICS} for when it began"
            )
        if self._rank.index == 0:
            steps = [checkpoint.step_of(directory) for directory in checkpoint.named(self.root)]
            before = [step for step in steps if step <= self.progress.step - trouble.num_steps]
            rollback = Rollback(
                at_step=self.progress.step,
                to_step=max(before, default=self.first.step),
                skipped=(first_place, self.progress.position.next_place),
                reason=trouble.reason,
                time=time.time(),
            )
            add_rollback(self._job.out, rollback)
            left_out = rollback.skipped[1] - rollback.skipped[0]
            self._tell(
                f"rolled back from step {rollback.at_step} to step {rollback.to_step}, leaving out {left_out} samples: "
                f"{rollback.reason}"
            )
        self.resume()

    def hosts(self) -> list[str]:
        """Name of each rank's machine. Collective."""
        names = [""] * self._rank.world_size
        torch.distributed.all_gather_object(names, socket.gethostname())
        return names

    def _load(self) -> Progress:
        self._dog.beat("loading a checkpoint", patience=FIRST_STEP)
        rollbacks = read_rollbacks(self._job.out)
        found = restore(self.engine, self.root, first=self.first, rollbacks=rollbacks, tell=self._tell)
        progress = self._begin_again(rollbacks) if found is None else found
        self._as_built = False
        if self._rank.index == 0:
            set_aside_newer(self.root, progress.step)
        torch.distributed.barrier()
        return progress

    def _begin_again(self, rollbacks: list[Rollback]) -> Progress:
        if not self._as_built:
            self.built = self._build(initial=True)
        if self._continued is not None:
            load_checkpoint(self.engine, self._continued)
        position = position_after(self.first.position, rollbacks)
        return replace(self.first, position=position, num_rollbacks=self.first.num_rollbacks + len(rollbacks))

    def _beginning(self) -> tuple[Progress, Path | None]:
        """Where this run began, and the checkpoint of another that it continues."""
        init = self._job.config.init_from
        if init is None or init.mode == "weights":
            return Progress(), None
        directory = find_checkpoint(init)
        record = checkpoint.read_record(directory)
        check_same_order(record.order, self._order)
        if record.step >= self._job.config.num_steps:
            raise UserError(
                f"init_from: {directory} is of step {record.step} already; num_steps counts from the start of that "
                f"training, so it must be greater than {record.step}"
            )
        return progress_of(record), directory

    def _build(self, *, initial: bool) -> Built:
        self._dog.beat("building the model", patience=FIRST_STEP)
        return build(self._job, initial=initial, tell=self._tell)

    def _clear_and_agree(self) -> tuple[str, bool]:
        """A word that is the same on all ranks and new each time, and whether there are checkpoints. Collective.

        Rank 0 has removed what does not count by then.
        """
        agreed: list[tuple[str, bool]] = [("", False)]
        if self._rank.index == 0:
            checkpoint.clear_unfinished(self.root)
            drop_void(self.root, read_rollbacks(self._job.out), before=self.first.num_rollbacks)
            agreed = [(uuid.uuid4().hex[:8], bool(checkpoint.named(self.root)))]
        torch.distributed.broadcast_object_list(agreed, src=0)
        return agreed[0]

    def _tell(self, text: str) -> None:
        """Say it once, not once a rank."""
        if self._rank.index == 0:
            self._notices.tell(text)
