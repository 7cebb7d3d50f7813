"""What training publishes."""

from configs.base import Manifest
from training.records import Rollback


class TrainedModel(Manifest):
    """Checkpoints, metrics.jsonl, and the transformers configuration of the model."""

    architecture: str
    num_parameters: int
    num_steps: int
    num_tokens: int
    """Tokens that the loss was taken over."""

    checkpoint: str
    """Directory of the last checkpoint."""

    first_loss: float
    """Loss of the first step, nats a token."""

    final_loss: float
    """Mean loss of the last ten steps, nats a token."""

    unigram_entropy: float
    """Entropy of the corpus's pieces, nats a token, from the tokenized corpus."""

    bits_per_byte: float
    """Of the text trained on, over the last tenth of the steps, at least ten."""

    loss_by_language: dict[str, float]
    """Nats a token over the same steps."""

    loss_by_source: dict[str, float]
    """Nats a token over the same steps."""

    tokens_per_second: float
    """Median over the steps."""

    mfu: float | None
    """Median over the steps; null on a device whose peak is not in the table."""

    goodput: float
    """Share of the time, restarts included, that went into steps that stand (training/log/attempts_file.py)."""

    num_restarts: int
    """Starts after the first."""

    num_skipped: int
    """Steps whose loss or gradient was not finite, and that left the weights as they were."""

    rollbacks: tuple[Rollback, ...]
    """Returns to an earlier checkpoint, each with the data that was left out for it."""

    def summary(self) -> str:
        margin = self.unigram_entropy - self.final_loss
        side = "below" if margin >= 0 else "above"
        return (
            f"{self.num_parameters / 1e6:.1f}M parameters, {self.num_steps:,} steps, {self.num_tokens:,} tokens: loss "
            f"from {self.first_loss:.2f} to {self.final_loss:.2f}, {abs(margin):.2f} nats {side} the unigram entropy"
            + "".join(f"; {trouble}" for trouble in self._troubles())
        )

    def _troubles(self) -> list[str]:
        restarts = f"goodput {self.goodput:.1%} with {counted(self.num_restarts, 'restart')}"
        return [
            *([restarts] if self.num_restarts else []),
            *([f"{counted(self.num_skipped, 'step')} skipped"] if self.num_skipped else []),
            *([counted(len(self.rollbacks), "roll-back")] if self.rollbacks else []),
        ]


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 restart`, `2 restarts`."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


class ExportedModel(Manifest):
    """`model/`: a directory that transformers loads with no code of ours."""

    path: str
    dtype: str
    num_parameters: int
    num_bytes: int

    def summary(self) -> str:
        size = f"{self.num_bytes / 2**20:.1f} MiB"
        return f"{self.path}: {self.num_parameters / 1e6:.1f}M parameters, {self.dtype}, {size}"
