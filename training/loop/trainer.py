"""The training loop of one rank: from the checkpoint it resumes from to the last step and its checkpoint."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial

import torch

from cluster.executor import Rank, Resized
from training.allocation.initial import make_balancer
from training.checkpoint.async_save import Saver
from training.checkpoint.directory import apply_retention, read_record
from training.data.batches import Batches
from training.data.passes import PassPlan
from training.data.prefetch import Prefetcher, StepInput
from training.data.tokens_read import count_tokens_read
from training.job import Job
from training.log.metrics_file import Validation
from training.log.notices import Notices
from training.log.summary import summarise_training
from training.loop.deterministic import deterministic_kernels
from training.loop.learning_rate import learning_rate_factor
from training.loop.profiler import StepProfiler
from training.loop.run_state import RunState, is_own_checkpoint
from training.loop.spikes import Instability, InstabilityDetector, num_steps_remembered
from training.loop.step import RankStatus, Stepper, StepResult
from training.loop.step_log import NOT_USEFUL, StepLog
from training.loop.stop_requests import RequestPoller, Stopped, TrainingRequests
from training.loop.validate import make_validator
from training.loop.watchdog import START_TIMEOUT_FACTOR, Watchdog
from training.manifests import TrainedModel
from training.records import CheckpointRecord, RecentStep, directory_of
from training.speeds import Speeds
from training.zero.communication import time_collectives, time_waits
from training.zero.ema import decay_after, update_ema
from training.zero.engine import set_learning_rate
from training.zero.fragments import owned_fragments
from training.zero.process_group import from_rank_0, join_process_group, leave_process_group, on_any_rank
from training.zero.step_timing import Stopwatch

NUM_LAST_SAVES, SECONDS_BETWEEN_LAST_SAVES = 120, 5.0
_NOT_OWN_WORK = ("communication", "checkpoint", "profile", "validation", "other")
"""Parts of a step whose time does not show how fast a rank is."""


def train_rank(rank: Rank, job: Job) -> TrainedModel | None:
    """Train from the newest whole checkpoint, or from the start, to the last step; rank 0 returns the manifest.

    Raises Stopped or Resized on all ranks when training was asked to stop or resize, and its work is saved.
    """
    requests = RequestPoller(
        job.out,
        watches_files=rank.index == 0,
        on_poll=job.fence.poll,
        save_every_seconds=job.cadence.save_every_seconds,
    )
    timeout = job.placement.hang_timeout_seconds
    with deterministic_kernels(job.placement), Watchdog(job.out, rank, timeout_seconds=timeout) as watchdog:
        device = join_process_group(rank, timeout_seconds=timeout)
        try:
            return Trainer(rank, job, device, watchdog, requests).run()
        finally:
            leave_process_group()


class Trainer:
    """Runs the training loop of one rank. All methods are collective."""

    def __init__(self, rank: Rank, job: Job, device: torch.device, watchdog: Watchdog, requests: RequestPoller) -> None:
        """Start or resume the training (training/loop/run_state.py)."""
        self.rank, self.job, self.config, self.device = rank, job, job.config, device
        self.watchdog, self.requests, self.notices = watchdog, requests, Notices(job.out)
        self.batches = Batches(job.tokens, job.config)
        self.order = self.batches.order_record()
        self.prefetcher = Prefetcher(
            self.batches,
            rank=rank.index,
            batch_size_at=job.config.batch_size_at,
            equal_rows=job.placement.compile,
            boundary_id=job.tokenizer.manifest.boundary_id,
            device=device,
        )
        self.stopwatch = Stopwatch(device)
        time_collectives(self.stopwatch)
        self.state = RunState(rank, job, self.order, watchdog, self.notices, device=device)
        time_waits(self.state.engine, self.stopwatch)
        hosts, devices = self.state.gather_machines()
        self.profiler = StepProfiler(
            rank, job, hosts=hosts, stopwatch=self.stopwatch, watchdog=watchdog, notices=self.notices
        )
        self.profiler.note_start(self.state.progress.step)
        self.step_log = (
            StepLog(rank, job, self.order, self.notices, self.state, device=device, hosts=hosts, devices=devices)
            if rank.index == 0
            else None
        )
        self.nats, self.num_targets = 0.0, 0
        self.own_seconds, self.pass_seconds = 0.0, 0.0
        self.balancer = make_balancer(
            job,
            rank,
            self.state.built,
            self.batches,
            saved=self.state.progress.speeds,
            step=self.state.progress.step,
            device=device,
            stopwatch=self.stopwatch,
            beat=partial(watchdog.beat, timeout_factor=START_TIMEOUT_FACTOR),
            notify=self.state.notify,
        )
        self.new_speeds: Speeds | None = None
        """By what rank 0 has found that sequences had better be shared."""
        self.validation_loss: float | None = None
        """Loss of the validation after the last step, if there was one."""
        self.validator = make_validator(rank, job, device, notify=self.notices.add)
        self._prepare_to_train()

    def run(self) -> TrainedModel | None:
        """Train to the last step; rank 0 returns the manifest."""
        with closing(self.prefetcher), self.step_log or nullcontext(), self.profiler:
            self._train()
        if self.step_log is None:
            return None
        last = read_record(directory_of(self.state.root, self.state.progress.step))
        return summarise_training(self.job.out, self.config, self.job.tokens.manifest, last)

    def _train(self) -> None:
        timeout_factor = START_TIMEOUT_FACTOR
        while self.state.progress.step < self.config.total_steps:
            with self.profiler.record(self.state.progress.step + 1):
                result = self._run_step(timeout_factor)
            timeout_factor = 1.0
            if (instability := self.detector.check_step(result.loss, updated=result.updated)) is not None:
                self._roll_back(instability)
                continue
            is_last = self.state.progress.step == self.config.total_steps
            if is_own_checkpoint(self.config, self.state.progress.step) or result.requests != TrainingRequests():
                self._begin_save()
            if not is_last:
                self._end_if_requested(result.requests)
        self._finish_last_save()

    def _end_if_requested(self, requests: TrainingRequests) -> None:
        """Raise Stopped or Resized, once the checkpoint is on disk, if that is requested."""
        if requests.stop or requests.resize:
            self._finish_last_save()
            saved = f"stopped after step {self.state.progress.step}, which is saved"
            raise Stopped(f"{saved}; run the same command to go on") if requests.stop else Resized(saved)

    def _run_step(self, timeout_factor: float) -> StepResult:
        """Run the next optimizer step, and write it down."""
        state, config = self.state, self.config
        step_input = self._read_step(timeout_factor)
        batch = step_input.batch
        self._seed_dropout()
        learning_rate = config.optimizer.learning_rate * learning_rate_factor(config, state.progress.step)
        set_learning_rate(state.engine, learning_rate)
        status = RankStatus(
            self.requests.poll(), self.saver.failed, self.own_seconds, self.pass_seconds, self.new_speeds is not None
        )
        norms_every = self.job.cadence.gradient_norms_every_steps
        result = self.stepper.run_step(
            step_input,
            status,
            self.watchdog,
            timeout_factor=timeout_factor,
            with_gradient_norms=norms_every is not None and (state.progress.step + 1) % norms_every == 0,
        )
        if result.updated and config.ema is not None:
            with self.stopwatch.part("optimizer"):
                update_ema(state.engine, decay=decay_after(config.ema, state.progress.num_updates + 1))
        self.saver.advance(result.num_failed_saves)
        self.recent.append(RecentStep(loss=result.loss, updated=result.updated, first_place=step_input.first_place))
        state.progress = replace(
            state.progress,
            step=state.progress.step + 1,
            num_updates=state.progress.num_updates + result.updated,
            num_skipped=state.progress.num_skipped + (not result.updated),
            num_tokens=state.progress.num_tokens + batch.num_targets,
            position=step_input.position,
        )
        self.nats, self.num_targets = self.nats + sum(result.nats), self.num_targets + batch.num_targets
        validation = self._validate(timeout_factor)
        seconds = self.stopwatch.pop_seconds()
        self.own_seconds = sum(value for part, value in seconds.items() if part not in _NOT_OWN_WORK)
        self.pass_seconds = seconds.get("forward", 0.0) + seconds.get("backward", 0.0)
        if self.step_log:
            self.step_log.write_step(
                result,
                batch,
                balancer=self.balancer,
                progress=state.progress,
                first_place=step_input.first_place,
                learning_rate=learning_rate,
                seconds=seconds,
                validation=validation,
            )
        self._balance(result, step_input.plan, seconds)
        return result

    def _read_step(self, timeout_factor: float) -> StepInput:
        """Return what the next step reads."""
        progress = self.state.progress
        self.watchdog.beat("reading a batch", timeout_factor=timeout_factor)
        with self.stopwatch.part("data"):
            is_last = progress.step + 1 == self.config.total_steps
            return self.prefetcher.take(progress.position, self.balancer.plans, step=progress.step, is_last=is_last)

    def _balance(self, result: StepResult, plan: PassPlan, seconds: dict[str, float]) -> None:
        """Share the next steps by the new speeds that rank 0 told of in this step; have it look for newer ones."""
        step = self.state.progress.step
        if result.has_new_speeds:
            speeds = from_rank_0(lambda: self.new_speeds)
            assert speeds is not None
            self.new_speeds = None
            shared = self.balancer.adopt(speeds, self.config.batch_size_at(step))
            self.state.notify(f"after step {step} {shared}")
        elif self.rank.index == 0:
            wall = sum(value for part, value in seconds.items() if part not in NOT_USEFUL)
            self.new_speeds = self.balancer.add_step(
                plan, step=step, seconds_before=result.pass_seconds, step_seconds=wall
            )

    def _validate(self, timeout_factor: float) -> Validation | None:
        """Validate, if that is due after the step that was just taken."""
        step, every = self.state.progress.step, self.config.validate_every_steps
        self.validation_loss = None
        if self.validator is None or every is None or not (step % every == 0 or step == self.config.total_steps):
            return None
        with self.stopwatch.part("validation"):
            found = self.validator.run(
                self.state.engine, self.balancer.plans, self.watchdog, timeout_factor=timeout_factor
            )
        self.validation_loss = found.loss
        return found

    def _seed_dropout(self) -> None:
        """Seed the generator of dropout by step and rank alone, so that a resumed run draws the same."""
        number = self.state.progress.step * self.rank.world_size + self.rank.index
        torch.manual_seed((self.config.seed * 0x9E3779B97F4A7C15 + number) % 2**63)

    def _begin_save(self) -> None:
        """Begin to save a checkpoint. The loop waits for the copy to host memory, and for the save before to end."""
        self._finish_save()
        progress = self.state.progress
        own = is_own_checkpoint(self.config, progress.step)
        record = CheckpointRecord(
            step=progress.step,
            num_updates=progress.num_updates,
            num_tokens=progress.num_tokens,
            tokens_read=count_tokens_read(self.order, progress.position),
            position=progress.position,
            order=self.order,
            global_batch_size=self.config.global_batch_size,
            num_rollbacks=progress.num_rollbacks,
            loss=self.nats / max(1, self.num_targets),
            recent=tuple(self.recent),
            validation_loss=self.validation_loss if own else None,
            own=own,
            batch_ramp=self.config.batch_ramp,
            num_skipped=progress.num_skipped,
            speeds=self.balancer.sharing.speeds if self.balancer.sharing else None,
            world_size=self.rank.world_size,
            zero_stage=self.job.placement.zero_stage,
            shapes=self.state.built.shapes,
            files={},
        )
        if self.step_log:
            self.step_log.end_line()  # so that no line covers steps on both sides of a checkpoint
        self.sound_step = progress.step - self.detector.num_bad
        with self.stopwatch.part("checkpoint"):
            self.saver.begin(record, owned_fragments(self.state.engine))
        if own:
            self.nats, self.num_targets = 0.0, 0
        self.requests.clear_save_request()

    def _finish_save(self, *, is_last: bool = False) -> None:
        """Wait for the checkpoint under way, if there is one."""
        with self.stopwatch.part("checkpoint"):
            self._wait_for_disk(self.saver.wait_for_files)
            num_failed = torch.tensor(int(self.saver.failed), device=self.device)
            torch.distributed.all_reduce(num_failed)
            self.saver.advance(int(num_failed), is_last=is_last)
            self._wait_for_disk(self.saver.wait)
            self.saver.advance(int(self.saver.failed), is_last=is_last)

    def _finish_last_save(self) -> None:
        """Wait for the last checkpoint, which is written again while a file system is away. Raises OSError."""
        self._finish_save(is_last=True)
        for number in range(NUM_LAST_SAVES):
            failure, may_succeed = self.saver.failure, self.saver.may_succeed_later
            has_failed, is_final = on_any_rank(failure is not None, not may_succeed, device=self.device)
            if is_final or not has_failed:
                break
            if number == 0 and self.rank.index == 0:
                self.notices.add("the last checkpoint could not be written, which may pass; it is tried again")
            self.watchdog.beat("a wait for the file system")
            time.sleep(SECONDS_BETWEEN_LAST_SAVES)
            self.saver.begin_again()
            self._finish_save(is_last=True)
        if self.saver.failure:
            raise self.saver.failure

    def _delete_old(self) -> None:
        """Delete the checkpoints that are not needed any more, in rank 0's writing thread."""
        apply_retention(
            self.state.root,
            self.job.placement.retention,
            is_own=partial(is_own_checkpoint, self.config),
            sound_step=self.sound_step,
        )

    def _before_commit(self) -> None:
        """Check the fence and sync the metrics, in rank 0's writing thread, before a checkpoint gets its name."""
        self.job.fence.check()
        if self.step_log:
            self.step_log.file.sync()

    def _wait_for_disk(self, wait: Callable[[float], bool]) -> None:
        """Call `wait` until it returns true, and beat the watchdog while blocks are written: a slow disk is no hang."""
        num_blocks = -1
        while not wait(0.2):
            if self.saver.num_blocks != num_blocks:
                num_blocks = self.saver.num_blocks
                self.watchdog.beat("the writing of a checkpoint")

    def _roll_back(self, instability: Instability) -> None:
        """Resume from a checkpoint before the instability, and skip the data that was read during it."""
        self._finish_save()
        self.profiler.drop()
        self.job.fence.check()
        self.state.roll_back(instability, first_place=self.recent[-instability.num_steps].first_place)
        if self.step_log:
            self.step_log.truncate_after(self.state.progress.step)
        self._prepare_to_train()

    def _prepare_to_train(self) -> None:
        """Make what depends on the engine and the step that training resumes from."""
        config, state = self.config, self.state
        self.stepper = Stepper(
            state.engine,
            self.rank,
            self.device,
            num_streams=len(self.batches.streams),
            config=config,
            stopwatch=self.stopwatch,
            emulated=self.job.placement.of_member(self.rank.member).emulated_seconds_per_sequence or 0.0,
        )
        self.own_seconds, self.pass_seconds = 0.0, 0.0
        self.balancer.forget_step()
        self.saver = Saver(
            state.root,
            rank=self.rank.index,
            world_size=self.rank.world_size,
            start_id=state.start_id,
            model_config=state.built.config.to_json_string(),
            before=self._before_commit,
            after=self._delete_old,
            notify=self.notices.add,
            device=self.device,
        )
        self.recent = deque(state.progress.recent, maxlen=num_steps_remembered(config.stability))
        self.detector = InstabilityDetector(config.stability, [(step.loss, step.updated) for step in self.recent])
        self.sound_step = state.progress.step
        """The last step that no instability under way may be part of, at the save before."""
        self.nats, self.num_targets = 0.0, 0
        self.stopwatch.pop_seconds()  # the time before belongs to no step
        if self.step_log:
            self.step_log.start_clock()
