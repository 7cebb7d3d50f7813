"""Manifests of the artifacts that training makes: a trained model, and its export."""

from pathlib import Path

from configs.base import Manifest
from training.records import Rollback, step_of


class TrainedModel(Manifest):
    """A trained model: checkpoints with the transformers configuration of the model, and metrics.jsonl."""

    architecture: str
    num_parameters: int
    num_steps: int
    num_tokens: int
    """Tokens that the loss was taken over."""

    checkpoint: str
    """Directory of the last checkpoint, relative to the artifact."""

    first_loss: float
    """Loss of the first step, nats a token."""

    final_loss: float
    """Mean loss over the targets of the last ten steps, nats a token."""

    unigram_entropy: float
    """Unigram entropy of the tokenized corpus, nats a token."""

    bits_per_byte: float
    """Training loss in bits a byte of text, over the last tenth of the steps, at least ten."""

    validation_loss: float | None = None
    """Loss on held-out text after the last step, nats a token; null without validation."""

    validation_bits_per_byte: float | None = None
    """The same in bits a byte of text."""

    best_checkpoint: str | None = None
    """Directory of the checkpoint with the lowest validation loss, relative to the artifact."""

    best_validation_loss: float | None = None
    """Its validation loss, nats a token."""

    loss_by_language: dict[str, float]
    """Training loss of each language over the same steps, nats a token."""

    loss_by_source: dict[str, float]
    """Training loss of each source over the same steps, nats a token."""

    tokens_per_second: float
    """Median over the steps."""

    mfu: float | None
    """Model FLOPs utilisation, median over the steps; null on a device whose peak is not known."""

    eta: float | None = None
    """Share of the speeds that the ranks' devices have each by themselves (StepMetrics.eta), median over the steps."""

    goodput: float
    """Share of the time, restarts included, that went into steps that were kept (training/log/sessions_file.py)."""

    num_restarts: int
    """Starts of the ranks after the first."""

    num_skipped: int
    """Steps whose loss or gradient was not finite, and that left the weights as they were."""

    rollbacks: tuple[Rollback, ...]
    """Roll-backs to an earlier checkpoint, in order."""

    def summary(self) -> str:
        margin = self.unigram_entropy - self.final_loss
        side = "below" if margin >= 0 else "above"
        return (
            f"{self.num_parameters / 1e6:.1f}M parameters, {self.num_steps:,} steps, {self.num_tokens:,} tokens: loss "
            f"from {self.first_loss:.2f} to {self.final_loss:.2f}, {abs(margin):.2f} nats {side} the unigram entropy"
            + self._held_out()
            + "".join(f"; {trouble}" for trouble in self._troubles())
        )

    def main_file(self) -> str:
        return self.checkpoint

    def _held_out(self) -> str:
        if self.validation_loss is None or self.best_checkpoint is None or self.best_validation_loss is None:
            return ""
        best = step_of(Path(self.best_checkpoint))
        lower = "" if best == self.num_steps else f", lowest {self.best_validation_loss:.2f} after step {best:,}"
        return f"; held out {self.validation_loss:.2f}, {self.validation_bits_per_byte:.3f} bits a byte{lower}"

    def _troubles(self) -> list[str]:
        restarts = f"goodput {self.goodput:.1%} with {counted(self.num_restarts, 'restart')}"
        return [
            *([restarts] if self.num_restarts else []),
            *([f"{counted(self.num_skipped, 'step')} skipped"] if self.num_skipped else []),
            *([counted(len(self.rollbacks), "roll-back")] if self.rollbacks else []),
        ]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 restart`, `2 restarts`."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


class ExportedModel(Manifest):
    """A Hugging Face model directory, which transformers loads with no code of ours."""

    path: str
    """The model directory, relative to the artifact."""

    dtype: str
    step: int
    """The optimizer step whose checkpoint it is of; of a mean over checkpoints the last."""

    num_parameters: int
    num_bytes: int
    minimum_transformers: str = ""
    """The oldest version of transformers that reads it; empty if it was exported before this was known."""

    def summary(self) -> str:
        size = f"{self.num_bytes / 2**20:.1f} MiB"
        return f"{self.path}: {self.num_parameters / 1e6:.1f}M parameters of step {self.step:,}, {self.dtype}, {size}"

    def main_file(self) -> str:
        return self.path
