"""The state of a training on one rank: its engine, and how far it is. How a training starts, resumes and rolls back.

When ranks start, after a kill as for the first time, RunState does the following; all of it is collective:

1. It finds where this training began: step 0, or the checkpoint that `init_from` names, with `mode: continue` and
   `new_data`; with the latter the data is read from the first sample of its order.
2. Rank 0 deletes partial checkpoints and those that a roll-back abandoned.
3. It builds the engine (training/loop/build.py), whose weights are zeros.
4. `restore` (training/checkpoint/restore.py) loads the newest checkpoint that every rank finds whole, and returns its
   Progress, whose position in the data is moved past what later roll-backs skip.
5. Without such a checkpoint the training begins where it began. Its first weights are random, or those of `init_from:
   {mode: weights}`; each rank makes or reads what it holds of them.
6. Rank 0 renames the damaged checkpoints that were passed over.

A roll-back adds a line to rollbacks.jsonl, which abandons the checkpoints after its target, and then does steps 2, 4, 5
and 6 with the engine there is. Metrics after the step that training resumes from are dropped by the step log.
"""

import socket
import time
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from cluster.executor import Rank
from configs.base import UserError
from configs.training.train import TrainConfig
from training.accelerator import device_name
from training.checkpoint.directory import delete_unfinished, read_record
from training.checkpoint.restore import (
    Progress,
    delete_abandoned,
    load_checkpoint,
    progress_of,
    restore,
    set_aside_damaged,
)
from training.checkpoint.rollbacks import add_rollback, position_after, read_rollbacks
from training.data.batches import check_same_order
from training.init.continued import check_same_model
from training.init.locate import find_checkpoint_to_continue
from training.job import Job
from training.log.metrics_file import METRICS_FILE
from training.log.notices import Notices
from training.loop.build import build_engine, open_first_weights
from training.loop.spikes import Instability
from training.loop.watchdog import START_TIMEOUT_FACTOR, Watchdog
from training.manifests import counted
from training.records import CHECKPOINTS, OrderRecord, Rollback, list_checkpoints, step_of
from training.zero.engine import restart_from
from training.zero.process_group import from_rank_0


def is_own_checkpoint(config: TrainConfig, step: int) -> bool:
    """Return whether the recipe asks for a checkpoint after `step`. Others, as on a signal, are for resuming alone."""
    return step % config.checkpoint_every_steps == 0 or step == config.total_steps


class RunState:
    """The engine of a training, and its progress. Making one and its methods are collective."""

    def __init__(
        self,
        rank: Rank,
        job: Job,
        order: OrderRecord,
        watchdog: Watchdog,
        notices: Notices,
        *,
        device: torch.device,
    ) -> None:
        """Start or resume the training of `job`, as the module says. Raises UserError if it cannot be continued."""
        self._rank, self._job, self._order, self._watchdog, self._notices = rank, job, order, watchdog, notices
        self._device = device
        self.root = job.out / CHECKPOINTS
        self.first, self._continued = from_rank_0(self._find_beginning)
        self.start_id = self._clean_checkpoints()
        self._watchdog.beat("building the model", timeout_factor=START_TIMEOUT_FACTOR)
        self.built = build_engine(job, device, member=rank.member, notify=self.notify)
        if (continued := self._continued) is not None:
            from_rank_0(lambda: check_same_model(continued, self.built.config.to_dict()))
        self.progress = self._load()

    @property
    def engine(self) -> object:
        """DeepSpeed's engine."""
        return self.built.engine

    def roll_back(self, instability: Instability, *, first_place: int) -> None:
        """Resume from before an instability, whose data begins at `first_place`, and skip that data.

        Raises UserError if the training has rolled back as often as it may.
        """
        done = self.progress.num_rollbacks - self.first.num_rollbacks
        if done >= self._job.config.stability.max_rollbacks:
            raise UserError(
                f"{instability.reason}, after step {self.progress.step} and {counted(done, 'roll-back')}; lower the "
                f"learning rate, lengthen the warm-up, or look at {METRICS_FILE} for when it began"
            )
        from_rank_0(partial(self._record_rollback, instability, first_place=first_place))
        self.start_id = self._clean_checkpoints()
        self.progress = self._load()

    def gather_machines(self) -> tuple[list[str], list[str]]:
        """Return the name of each rank's machine, and of its device."""
        found = [("", "")] * self._rank.world_size
        torch.distributed.all_gather_object(found, (socket.gethostname(), device_name(self._device)))
        return [host for host, _ in found], [device for _, device in found]

    def _record_rollback(self, instability: Instability, *, first_place: int) -> None:
        every = self._job.config.checkpoint_every_steps
        steps = [step_of(directory) for directory in list_checkpoints(self.root)]
        before = [step for step in steps if step <= self.progress.step - instability.num_steps and step % every == 0]
        rollback = Rollback(
            at_step=self.progress.step,
            to_step=max(before, default=self.first.step),
            skipped=(first_place, self.progress.position.next_place),
            reason=instability.reason,
            time=time.time(),
        )
        add_rollback(self._job.out, rollback)
        num_skipped = rollback.skipped[1] - rollback.skipped[0]
        self.notify(
            f"rolled back from step {rollback.at_step} to step {rollback.to_step}, leaving out {num_skipped} samples: "
            f"{rollback.reason}"
        )

    def _load(self) -> Progress:
        """Load the newest valid checkpoint, or begin again without one; return the progress."""
        self._watchdog.beat("loading a checkpoint", timeout_factor=START_TIMEOUT_FACTOR)
        rollbacks = from_rank_0(lambda: read_rollbacks(self._job.out))
        found = restore(self.engine, self.root, first=self.first, rollbacks=rollbacks, notify=self.notify)
        progress = self._begin_again(rollbacks) if found is None else found
        from_rank_0(partial(set_aside_damaged, self.root, progress.step))
        return progress

    def _begin_again(self, rollbacks: list[Rollback]) -> Progress:
        """Put the engine where this training began; return that progress, past the data of roll-backs since."""
        if self._continued is not None:
            load_checkpoint(self.engine, self._continued)
        else:
            self._watchdog.beat("making the first weights", timeout_factor=START_TIMEOUT_FACTOR)
            with open_first_weights(self._job, self.built, notify=self.notify) as read:
                restart_from(self.engine, read)
        position = position_after(self.first.position, rollbacks)
        return replace(self.first, position=position, num_rollbacks=self.first.num_rollbacks + len(rollbacks))

    def _find_beginning(self) -> tuple[Progress, Path | None]:
        """Return where this training begins, and the checkpoint of another that it continues, if it does."""
        init = self._job.config.init_from
        if init is None or init.mode == "weights":
            return Progress(), None
        directory = find_checkpoint_to_continue(init)
        record = read_record(directory)
        begin = progress_of(record)
        if init.mode == "continue":
            check_same_order(record.order, self._order, next_place=record.position.next_place)
        elif init.schedule == "fresh":
            return Progress(num_updates=record.num_updates), directory
        else:
            begin = Progress(step=record.step, num_updates=record.num_updates)
        if record.step >= self._job.config.total_steps:
            raise UserError(
                f"init_from: {directory} is of step {record.step} already; num_steps or num_tokens counts from the "
                f"start of that training, so it must be greater than {record.step}"
            )
        return begin, directory

    def _clean_checkpoints(self) -> str:
        """Delete checkpoints that do not count; return an id, the same on all ranks and new at each call."""

        def clean() -> str:
            delete_unfinished(self.root)
            delete_abandoned(self.root, read_rollbacks(self._job.out), before=self.first.num_rollbacks)
            return uuid.uuid4().hex[:8]

        return from_rank_0(clean)

    def notify(self, text: str) -> None:
        """Write a notice once, not once a rank."""
        if self._rank.index == 0:
            self._notices.add(text)
