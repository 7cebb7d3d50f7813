"""Training on one rank, top to bottom."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import torch

from cluster.executor import Rank, Resized
from training.checkpoint import directory as checkpoint
from training.checkpoint.async_save import Saver
from training.data.batches import Batches
from training.data.position import take
from training.data.tokens_read import tokens_read
from training.job import Job
from training.log.metrics_file import FILE, recent_metrics
from training.log.notices import Notices
from training.log.step_log import Scribe
from training.log.summary import trained_model
from training.loop.build import device_name, memory_bytes
from training.loop.learning_rate import learning_rate_factor
from training.loop.run_state import Course
from training.loop.spikes import Stability, Trouble, memory_steps
from training.loop.step import Outcome, Signals, Stepper
from training.loop.stop_requests import Requests, Stopped, Wishes
from training.loop.watchdog import FIRST_STEP, Watchdog
from training.manifests import TrainedModel
from training.records import CheckpointRecord
from training.sizing.flops import flops_per_token, peak_flops
from training.zero.engine import join, leave, set_learning_rate, time_communication
from training.zero.fragments import owned_fragments
from training.zero.step_timing import Stopwatch

_NOT_OWN_WORK = ("communication", "checkpoint", "other")
"""Parts of a step that say nothing about how fast a rank is."""


def train_rank(rank: Rank, job: Job) -> TrainedModel | None:
    """Train from the newest whole checkpoint, or from the start, to the last step; rank 0 says what came of it."""
    requests = Requests(job.out, watches_files=rank.index == 0, on_look=job.fence.check)
    timeout = job.placement.hang_timeout_seconds
    with Watchdog(job.out, rank, timeout_seconds=timeout) as dog:
        device = join(rank, timeout_seconds=timeout)
        try:
            return Trainer(rank, job, device, dog, requests).run()
        finally:
            leave()


class Trainer:
    """The state of training on one rank."""

    def __init__(self, rank: Rank, job: Job, device: torch.device, dog: Watchdog, requests: Requests) -> None:
        self.rank, self.job, self.config, self.device = rank, job, job.config, device
        self.dog, self.requests, self.notices = dog, requests, Notices(job.out)
        self.batches = Batches(job.tokens, job.config)
        self.order = self.batches.order_record()
        self.watch = Stopwatch(device)
        time_communication(self.watch)
        self.course = Course(rank, job, self.order, dog, self.notices)
        hosts = self.course.hosts()
        self.scribe = self._make_scribe(hosts) if rank.index == 0 else None
        self.nats, self.targets, self.own_seconds = 0.0, 0, 0.0
        self._set_off()

    def run(self) -> TrainedModel | None:
        """The loop; rank 0 says what came of it."""
        if self.scribe is None:
            self._train()
            return None
        with self.scribe:
            self._train()
        progress = self.course.progress
        return trained_model(
            self.job,
            self.course.built.shapes,
            num_steps=progress.step,
            num_tokens=progress.num_tokens,
            checkpoint=checkpoint.directory_of(self.course.root, progress.step),
        )

    def _train(self) -> None:
        patience = FIRST_STEP
        while self.course.progress.step < self.config.num_steps:
            outcome = self._step(patience)
            patience = 1.0
            if (trouble := self.stability.judge(outcome.loss, updated=outcome.updated)) is not None:
                self._roll_back(trouble)
                continue
            last = self.course.progress.step == self.config.num_steps
            due = self.course.progress.step % self.config.checkpoint_every_steps == 0
            if last or due or outcome.wishes != Wishes():
                self._save()
            if not last:
                self._end_if_wanted(outcome.wishes)
        self._end_save()

    def _end_if_wanted(self, wishes: Wishes) -> None:
        if wishes.stop or wishes.resize:
            self._end_save()
            saved = f"stopped after step {self.course.progress.step}, which is saved"
            raise Stopped(f"{saved}; run the same command to go on") if wishes.stop else Resized(saved)

    def _step(self, patience: float) -> Outcome:
        places, position = take(self.course.progress.position, self.config.global_batch_size)
        batch = self.batches.batch(places)
        self._seed()
        factor = learning_rate_factor(self.config.schedule, self.course.progress.step, num_steps=self.config.num_steps)
        learning_rate = self.config.optimizer.learning_rate * factor
        set_learning_rate(self.course.engine, learning_rate)
        signals = Signals(self.requests.look(), self.saver.failed, self.own_seconds)
        outcome = self.stepper.take(batch, signals, self.dog, patience=patience)
        self.saver.advance(outcome.num_failed)
        self.recent.append(places[0].start)
        self.course.progress = replace(
            self.course.progress,
            step=self.course.progress.step + 1,
            num_updates=self.course.progress.num_updates + outcome.updated,
            num_tokens=self.course.progress.num_tokens + batch.num_targets,
            position=position,
        )
        self.nats, self.targets = self.nats + sum(outcome.nats), self.targets + batch.num_targets
        seconds = self.watch.take()
        self.own_seconds = sum(value for part, value in seconds.items() if part not in _NOT_OWN_WORK)
        if self.scribe:
            self.scribe.write(
                outcome,
                batch,
                progress=self.course.progress,
                first_place=self.recent[-1],
                learning_rate=learning_rate,
                seconds=seconds,
                memory=memory_bytes(self.device),
            )
        return outcome

    def _seed(self) -> None:
        """Of dropout, where a model has it: by step and rank alone, so that a resumed run draws the same."""
        place = self.course.progress.step * self.rank.world_size + self.rank.index
        torch.manual_seed((self.config.seed * 0x9E3779B97F4A7C15 + place) % 2**63)

    def _save(self) -> None:
        """Begin a checkpoint. The loop stands still for the copy, and for the end of the one before."""
        self._finish_save()
        record = CheckpointRecord(
            step=self.course.progress.step,
            num_updates=self.course.progress.num_updates,
            num_tokens=self.course.progress.num_tokens,
            tokens_read=tokens_read(self.order, self.course.progress.position),
            position=self.course.progress.position,
            order=self.order,
            global_batch_size=self.config.global_batch_size,
            num_rollbacks=self.course.progress.num_rollbacks,
            loss=self.nats / max(1, self.targets),
            world_size=self.rank.world_size,
            zero_stage=self.job.placement.zero_stage,
            shapes=self.course.built.shapes,
            files={},
        )
        with self.watch.part("checkpoint"):
            self.saver.begin(record, owned_fragments(self.course.engine))
        self.nats, self.targets = 0.0, 0
        self.requests.saved()

    def _finish_save(self) -> None:
        """Wait for the checkpoint under way, if there is one. Collective."""
        with self.watch.part("checkpoint"):
            self._while_waiting(self.saver.wait_for_files)
            num_failed = torch.tensor(int(self.saver.failed), device=self.device)
            torch.distributed.all_reduce(num_failed)
            self.saver.advance(int(num_failed))
            self._while_waiting(self.saver.wait)
            self.saver.advance(int(self.saver.failed))

    def _end_save(self) -> None:
        """Wait for the last checkpoint of all. Raises OSError if it could not be written."""
        self._finish_save()
        if self.saver.failure:
            raise self.saver.failure

    def _before_name(self) -> None:
        """What comes before a checkpoint gets its name, in rank 0's thread that writes it."""
        self.job.fence.check()
        if self.scribe:
            self.scribe.file.sync()

    def _while_waiting(self, wait: Callable[[float], bool]) -> None:
        """Wait, as long as blocks are written: a slow disk is no hang."""
        blocks = -1
        while not wait(0.2):
            if self.saver.num_blocks != blocks:
                blocks = self.saver.num_blocks
                self.dog.beat("the writing of a checkpoint")

    def _roll_back(self, trouble: Trouble) -> None:
        """Go on from a checkpoint before the trouble, leaving out the data that was read during it. Collective."""
        self._finish_save()
        self.job.fence.check()
        self.course.roll_back(trouble, first_place=self.recent[-trouble.num_steps])
        if self.scribe:
            self.scribe.file.cut(self.course.progress.step)
        self._set_off()

    def _set_off(self) -> None:
        """Be ready to go on from where the course is. Collective."""
        config, step = self.config, self.course.progress.step
        rows = self.job.placement.micro_batch_size
        self.stepper = Stepper(self.course.engine, self.batches, self.rank, self.device, rows=rows, watch=self.watch)
        self.saver = Saver(
            self.course.root,
            rank=self.rank.index,
            world_size=self.rank.world_size,
            attempt=self.course.attempt,
            model_config=self.course.built.config.to_json_string(),
            before=self._before_name,
            after=lambda: checkpoint.retain(self.course.root, self.job.placement.retention),
            tell=self.notices.tell,
            pinned=self.device.type == "cuda",
        )
        lines = recent_metrics(self.job.out / FILE, up_to=step, count=memory_steps(config.stability))
        self.stability = Stability(config.stability, [(line.loss, line.updated) for line in lines])
        self.recent = deque([line.first_place for line in lines], maxlen=memory_steps(config.stability))
        """Where the data of each of the last steps begins."""
        self.nats, self.targets = 0.0, 0
        torch.distributed.barrier()  # all have read the lines before rank 0 writes on
        self.watch.take()  # what went before is of no step
        if self.scribe:
            self.scribe.start_clock()

    def _make_scribe(self, hosts: list[str]) -> Scribe:
        built, name = self.course.built, device_name(self.device)
        flops = flops_per_token(built.config.to_dict(), built.shapes, sequence_length=self.config.sequence_length)
        return Scribe(
            self.rank,
            self.job,
            self.order,
            self.notices,
            progress=self.course.progress,
            device=name,
            hosts=hosts,
            flops_per_token=flops,
            peak=peak_flops(name),
        )
