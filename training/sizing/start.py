"""What a rank takes beside its steps: on its device while it starts, and of its host's memory.

The terms were read from DeepSpeed 0.19.8, training/zero/engine.py, training/network/probes.py and
training/checkpoint/async_save.py; docs/planning.md explains them.
"""

from dataclasses import asdict, dataclass

from configs.base import GIB, MIB
from training.sizing.memory import Memory, parameters_at_rest, pinned_bytes
from training.sizing.model_size import ModelSize, TrainingLayout
from training.zero.config import ADAMW_MOMENTS, MUON_MOMENTS

CUDA_HOST_BYTES = 3 * GIB
"""Host memory of a process that uses a GPU: its libraries and the driver's tables. An assumption, not measured."""

STAGED_BYTES = 64 * MIB
"""What of the first weights is in host memory at a time, on the way to a GPU."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of its host's memory that a rank takes; of a rank on CPUs what its steps (Memory) do not have."""

    process: int
    offloaded: int
    """The optimizer, where it is offloaded from a GPU."""

    checkpoint: int
    """The buffer that a checkpoint is copied to. For a GPU it is pinned (page-locked), which PyTorch rounds up to a
    power of two."""

    start: int
    """What is there while the rank starts, and gone when the buffer of a checkpoint is made."""

    @property
    def total(self) -> int:
        """Most bytes at a time."""
        return self.process + self.offloaded + max(self.checkpoint, self.start)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part."""
        return asdict(self)


def predict_start(size: ModelSize, setting: TrainingLayout, steady: Memory) -> int:
    """Predict the most bytes on the device from the beginning until the first step: a bound.

    First rank 0 probes a copy of two layers: weights in fp32, then with gradients in the precision of training, and
    lets go of it. Parameters are allocated, one after another where they are sharded, and joined into flat tensors,
    before masters, moments and buffers are made. In stages 0 to 2 the flat copy of bf16 parameters, and in stages 1 and
    2 of all, is made beside them; ZeRO-3 joins its shards on the host.
    """
    whole = setting.width * size.num_parameters
    if setting.zero_stage == 3:
        # the shards, and the largest parameter before it is sharded, and its shard
        shards = whole // setting.num_ranks
        joining = shards + (shards if setting.device == "cpu" else 0)
        flattening = max(joining, shards + 2 * setting.width * size.largest_matrix)
    elif setting.zero_stage == 0 and setting.width == 4:
        flattening = whole
    else:
        flattening = 2 * whole
    made = parameters_at_rest(size, setting) + steady.optimizer + steady.gradients + steady.buffers
    return steady.process + max(2 * setting.width * _probed(size), flattening, made)


def predict_host(size: ModelSize, setting: TrainingLayout, steady: Memory, *, moves_rows: bool) -> HostMemory:
    """Predict the host memory of a rank; `moves_rows` says whether weights are given whose vocabulary may be another's.

    Rank 0 takes most: it makes the layers that are probed, in fp32.
    """
    on_gpu = setting.device != "cpu"
    offloaded = steady.offloaded if on_gpu else 0
    checkpoint = -(-checkpoint_bytes(size, setting.width) // setting.num_ranks)
    shards = setting.width * size.num_parameters // setting.num_ranks if setting.zero_stage == 3 and on_gpu else 0
    probe = 4 * _probed(size) if on_gpu else 0  # on CPUs predict_start has it
    rows = 3 * 4 * size.vocab_size * size.hidden_size if moves_rows else 0  # as stored, in fp32, and moved
    return HostMemory(
        process=CUDA_HOST_BYTES if on_gpu else 0,
        offloaded=offloaded,
        checkpoint=pinned_bytes(checkpoint) if on_gpu else checkpoint,
        start=max(shards + (STAGED_BYTES if on_gpu else 0), probe, rows),
    )


def _probed(size: ModelSize) -> int:
    """Return the parameters of the copy that is probed, which has a small vocabulary."""
    return 2 * size.largest_layer


def checkpoint_bytes(size: ModelSize, width: int) -> int:
    """Return the size of a checkpoint: fp32 weights, moments and average, and what is frozen in `width` bytes each."""
    num_adamw = size.num_trained - size.num_muon
    per_adamw, per_muon = 4 * (1 + len(ADAMW_MOMENTS)), 4 * (1 + len(MUON_MOMENTS))
    frozen = width * (size.num_parameters - size.num_trained)
    return per_adamw * num_adamw + per_muon * size.num_muon + 4 * size.num_averaged + frozen
