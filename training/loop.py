"""Training on one rank, top to bottom."""

import time
from pathlib import Path

import torch

from cluster.executor import Rank
from cluster.files import write_text
from configs.base import UserError
from training import checkpoint
from training.batches import Batches, MicroBatch
from training.engine import fragments, join, leave, make_engine, publish, set_learning_rate, set_step, take_step
from training.job import Job
from training.manifests import TrainedModel
from training.metrics import FILE, MetricsFile, StepMetrics, Stopwatch, read_metrics
from training.model import build_model, model_config
from training.notices import notify
from training.schedule import learning_rate_factor
from training.wandb_log import WandbLog

CHECKPOINTS = "checkpoints"
IGNORED = -100
"""Target that bears no loss."""


def train_rank(rank: Rank, job: Job) -> TrainedModel:
    """Train from the newest whole checkpoint, or from the start, to the last step."""
    device = join(rank)
    try:
        return Trainer(rank, job, device).run()
    finally:
        leave()


class Trainer:
    """The state of training on one rank."""

    def __init__(self, rank: Rank, job: Job, device: torch.device) -> None:
        self.rank, self.job, self.config, self.device = rank, job, job.config, device
        self.batches = Batches(job.tokens, job.config)
        tokenizer = job.tokenizer.manifest
        self.model_config = model_config(
            job.config, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id
        )
        model = build_model(self.model_config, seed=job.config.seed)
        self.shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self.engine = make_engine(model, job.config, zero_stage=job.placement.zero_stage)
        self.checkpoints = job.out / CHECKPOINTS
        self.step, self.num_tokens = self._restore()
        self.watch = Stopwatch()

    def run(self) -> TrainedModel:
        """The loop."""
        out = self.job.out
        metrics = MetricsFile(out / FILE, step=self.step) if self.rank.index == 0 else None
        settings, so_far = (self.job.placement.wandb, read_metrics(out / FILE)) if metrics else (None, [])
        with WandbLog(settings, out, name=out.name, so_far=so_far) as wandb:
            while self.step < self.config.num_steps:
                line = self._train_step()
                if metrics:
                    metrics.append(line)
                    wandb.log(line)
                last = self.step == self.config.num_steps
                if last or self.step % self.config.checkpoint_every_steps == 0:
                    if metrics:
                        metrics.sync()
                    with self.watch.part("checkpoint"):
                        self._save()
            if metrics:
                metrics.close()
        return self._manifest()

    def _train_step(self) -> StepMetrics:
        """One optimizer step: the gradient is the mean over the step's targets, whatever each rank's share."""
        start = time.perf_counter()
        self._seed()
        learning_rate = self._learning_rate()
        set_learning_rate(self.engine, learning_rate)
        num_targets = self.batches.num_targets(self.step)
        loss = torch.zeros((), device=self.device)
        batches = self._micro_batches()
        for i, batch in enumerate(batches):
            self.engine.set_gradient_accumulation_boundary(i == len(batches) - 1)
            with self.watch.part("forward"):
                loss_sum = self._loss_sum(batch)
            with self.watch.part("backward"):
                # DeepSpeed averages over ranks, so each rank's share is scaled by their number.
                self.engine.backward(loss_sum * self.rank.world_size / num_targets, scale_wrt_gas=False)
            loss += loss_sum.detach()
        with self.watch.part("optimizer"):
            gradient_norm = take_step(self.engine)
            torch.distributed.all_reduce(loss)
            mean_loss = loss.item() / num_targets
        self.step += 1
        self.num_tokens += num_targets
        self._check(mean_loss)
        return StepMetrics(
            step=self.step,
            loss=mean_loss,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            num_tokens=self.num_tokens,
            tokens_per_second=round(num_targets / (time.perf_counter() - start), 1),
            seconds=self.watch.take(),
            time=time.time(),
        )

    def _seed(self) -> None:
        """Of dropout, where a model has it: by step and rank alone, so that a resumed run draws the same."""
        place = self.step * self.rank.world_size + self.rank.index
        torch.manual_seed((self.config.seed * 0x9E3779B97F4A7C15 + place) % 2**63)

    def _learning_rate(self) -> float:
        factor = learning_rate_factor(self.config.schedule, self.step, num_steps=self.config.num_steps)
        return self.config.optimizer.learning_rate * factor

    def _micro_batches(self) -> list[MicroBatch]:
        size = self.job.placement.micro_batch_size
        with self.watch.part("data"):
            world_size = self.rank.world_size
            return list(self.batches.micro_batches(self.step, rank=self.rank.index, world_size=world_size, size=size))

    def _loss_sum(self, batch: MicroBatch) -> torch.Tensor:
        """Sum of the token losses of a micro-batch, in nats, fp32."""
        tokens = torch.from_numpy(batch.tokens).to(self.device)
        lengths = torch.from_numpy(batch.lengths).to(self.device)
        inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
        targets[torch.arange(targets.shape[1], device=self.device) >= lengths[:, None]] = IGNORED
        logits = self.engine(input_ids=inputs).logits
        flat = logits.flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum")

    def _check(self, loss: float) -> None:
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise UserError(
                f"the loss of step {self.step} is {loss}; lower the learning rate or lengthen the warm-up, and look at "
                f"{FILE} for when it began"
            )

    def _save(self) -> None:
        """Write a checkpoint together; rank 0 names it once all have written."""
        directory = checkpoint.directory_of(self.checkpoints, self.step)
        gathering = [checkpoint.begin(directory)] if self.rank.index == 0 else [None]
        torch.distributed.broadcast_object_list(gathering, src=0)
        assert gathering[0] is not None
        world_size = self.rank.world_size
        owned = fragments(self.engine)
        sha256 = checkpoint.save_fragments(gathering[0], owned, rank=self.rank.index, world_size=world_size)
        checksums: list[str] = [""] * world_size
        torch.distributed.all_gather_object(checksums, sha256)
        if self.rank.index == 0:
            self._name(gathering[0], directory, checksums)
        torch.distributed.barrier()

    def _name(self, gathering: Path, directory: Path, checksums: list[str]) -> None:
        write_text(gathering / checkpoint.MODEL_CONFIG, self.model_config.to_json_string())
        record = checkpoint.CheckpointRecord(
            step=self.step,
            num_tokens=self.num_tokens,
            world_size=self.rank.world_size,
            shapes=self.shapes,
            sha256=checkpoint.checksums(gathering, checksums),
        )
        checkpoint.finish(gathering, directory, record)
        checkpoint.keep_newest(self.checkpoints, self.config.keep_checkpoints)

    def _restore(self) -> tuple[int, int]:
        """The step and the tokens of the checkpoint gone on from; zeros at the start."""
        found, complaints = checkpoint.newest(self.checkpoints)
        if self.rank.index == 0:
            where = found[0].name if found else "the start"
            notify(self.job.out, [f"{text}; going on from {where}" for text in complaints])
        if found is None:
            return 0, 0
        directory, record = found
        checkpoint.load_fragments(directory, record, fragments(self.engine))
        set_step(self.engine, record.step)
        publish(self.engine)
        return record.step, record.num_tokens

    def _manifest(self) -> TrainedModel:
        losses = [line.loss for line in read_metrics(self.job.out / FILE)]
        recent = losses[-10:]
        return TrainedModel(
            architecture=self.config.model.architecture,
            num_parameters=sum(torch.Size(shape).numel() for shape in self.shapes.values()),
            num_steps=self.step,
            num_tokens=self.num_tokens,
            checkpoint=str(checkpoint.directory_of(self.checkpoints, self.step).relative_to(self.job.out)),
            first_loss=losses[0],
            final_loss=sum(recent) / len(recent),
            unigram_entropy=self.job.tokens.manifest.unigram_entropy,
        )
