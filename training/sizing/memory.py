"""Predicts the memory of a rank that trains, in bytes by part.

It is pure arithmetic on what DeepSpeed 0.19.8, PyTorch 2.13 and training/network/head_loss.py allocate.
benchmarks/memory_model.py compares it with measured runs; docs/planning.md explains the terms and has the results.
"""

from dataclasses import dataclass, fields

from configs.base import GIB, MIB
from training.sizing.activations import activation_bytes, logits_bytes, loss_bytes
from training.sizing.model_size import ModelSize, TrainingLayout
from training.zero.config import (
    ADAMW_MOMENTS,
    ALLREDUCE_BUCKET_ELEMENTS,
    MAX_LIVE_ELEMENTS,
    MUON_BUCKET_ELEMENTS,
    MUON_MOMENTS,
    REDUCE_BUCKET_ELEMENTS,
)

PREDICTION_ERROR = 0.15
"""More than the largest relative error against measured runs of 12 million parameters and more, which docs/planning.md
lists. A layout fits only if it still fits with this error."""

CPU_PROCESS_BYTES, CUDA_PROCESS_BYTES = 500 * MIB, GIB
"""Memory of a rank besides tensors: Python with its libraries, 0.41 GiB resident as measured after the imports; on a
GPU the context and NCCL's buffers, 1 GiB as an assumption that was not measured."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank holds on its device at the peak of a step, and beside it in host memory."""

    parameters: int
    gradients: int
    optimizer: int
    """fp32 weights and moments."""

    activations: int
    loss: int
    """A chunk of logits, and the gradients of the output layer, which are made with it."""

    buffers: int
    """Buffers of the collectives that exchange gradients and weights."""

    process: int
    """Libraries, and the context of a GPU."""

    host: int
    """Host memory of an optimizer that is offloaded from a GPU; no part of the total."""

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """Bytes on the device by part."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "host"}


def predict_memory(size: ModelSize, setting: TrainingLayout) -> Memory:
    """Predict the peak memory of one rank.

    Gradient accumulation does not change it: gradients are held from pass to pass in any case.
    """
    parameters = _parameters(size, setting)
    gradients, buffers = _gradients(size, setting), _buffers(size, setting)
    optimizer = _optimizer(size, setting)
    loss, activations = loss_bytes(size, setting), activation_bytes(size, setting)
    host = 0
    if setting.offload_optimizer and setting.device != "cpu":
        host, optimizer = optimizer + _shard(4 * size.num_trained, setting), 0
    during_step = _step(size, setting) - gradients - buffers - loss - activations
    return Memory(
        parameters=parameters,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        loss=loss,
        buffers=buffers + max(0, during_step),
        process=CPU_PROCESS_BYTES if setting.device == "cpu" else CUDA_PROCESS_BYTES,
        host=host,
    )


def _shard(num_bytes: float, setting: TrainingLayout, *, from_stage: int = 1) -> int:
    return int(num_bytes / setting.num_ranks if setting.zero_stage >= from_stage else num_bytes)


def _parameters(size: ModelSize, setting: TrainingLayout) -> int:
    width = setting.width
    whole = width * size.num_parameters
    if setting.zero_stage < 3:
        return whole
    live = min(size.num_parameters, MAX_LIVE_ELEMENTS + size.largest_layer) if setting.num_ranks > 1 else 0
    return _shard(whole, setting) + width * live


def _gradients(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of gradients: all sum in fp32; stages 0 and 1 in bf16 have the pass's own beside the sum."""
    width, trained = setting.width, size.num_trained
    if setting.zero_stage < 2:
        return (4 if width == 4 else 6) * trained
    in_flight = width * size.largest_matrix if setting.zero_stage == 3 else 0
    return _shard(4 * trained, setting) + in_flight


def _optimizer(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of moments and of fp32 weights, which without ZeRO in fp32 are the parameters themselves."""
    num_adamw = size.num_trained - size.num_muon
    moments = 4 * (len(ADAMW_MOMENTS) * num_adamw + len(MUON_MOMENTS) * size.num_muon)
    masters = 0 if setting.zero_stage == 0 and setting.precision == "fp32" else 4 * size.num_trained
    return _shard(moments + masters, setting)


def _touched_bucket_elements(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the elements of DeepSpeed's reduce bucket that are touched: host memory counts no others."""
    return min(REDUCE_BUCKET_ELEMENTS, size.num_trained) if setting.device == "cpu" else REDUCE_BUCKET_ELEMENTS


def _buffers(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of communication buffers while activations are held."""
    in_stage_1_bf16 = setting.zero_stage == 1 and setting.precision == "bf16" and not setting.offload_optimizer
    if setting.zero_stage == 0 or in_stage_1_bf16:
        return 0
    elements = _touched_bucket_elements(size, setting)
    bucket = setting.width * elements
    if setting.zero_stage == 1:
        return bucket
    # what only the backward pass needs takes the place of the logits
    converted = setting.reduced_width * elements if setting.reduced_width != setting.width else 0
    if setting.zero_stage == 2:
        flattened = bucket if converted else 0
        return max(0, bucket + flattened + converted - logits_bytes(size, setting))
    flattened = setting.reduced_width * elements  # ZeRO-3 interleaves the ranks' parts of what it reduces
    in_backward = max(0, flattened + converted - logits_bytes(size, setting)) if setting.num_ranks > 1 else converted
    return bucket + in_backward


def _step(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of gradients and of their reduction after the last pass, or of the optimizer's update.

    Activations are freed by then.
    """
    width, trained = setting.width, size.num_trained
    # a bucket of matrices, and five copies of one in the iteration that orthogonalises it, in fp32
    muon = 4 * min(MUON_BUCKET_ELEMENTS, size.num_muon) + 20 * size.largest_muon
    if setting.zero_stage == 0 and width == 4:
        reduced = min(ALLREDUCE_BUCKET_ELEMENTS, trained) if setting.num_ranks > 1 else 0
        return width * trained + width * reduced + muon
    if setting.zero_stage < 2 and width == 2:
        return 6 * trained + max(_allreduce_copies(size, setting), muon)
    return _shard(8 * trained, setting) + max(width * _touched_bucket_elements(size, setting), muon)


def _allreduce_copies(size: ModelSize, setting: TrainingLayout) -> int:
    """Return the bytes of copies that an all-reduce of whole groups of fp32 gradients makes, one group after another.

    DeepSpeed joins groups until they are larger than its bucket; a group that is so by itself is reduced in place.
    """
    first, rest = size.num_trained - size.num_muon, size.num_muon
    joined = first + rest if first <= ALLREDUCE_BUCKET_ELEMENTS else rest
    converted = 2 * max(first, joined) if setting.reduced_width == 2 else 0
    return 4 * joined + converted
