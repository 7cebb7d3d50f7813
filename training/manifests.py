"""What training publishes."""

from configs.base import Manifest


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

    def summary(self) -> str:
        margin = self.unigram_entropy - self.final_loss
        side = "below" if margin >= 0 else "above"
        return (
            f"{self.num_parameters / 1e6:.1f}M parameters, {self.num_steps:,} steps, {self.num_tokens:,} tokens: loss "
            f"from {self.first_loss:.2f} to {self.final_loss:.2f}, {abs(margin):.2f} nats {side} the unigram entropy"
        )


class ExportedModel(Manifest):
    """`model/`: a directory that transformers loads with no code of ours."""

    path: str
    dtype: str
    num_parameters: int
    num_bytes: int

    def summary(self) -> str:
        size = f"{self.num_bytes / 2**20:.1f} MiB"
        return f"{self.path}: {self.num_parameters / 1e6:.1f}M parameters, {self.dtype}, {size}"
