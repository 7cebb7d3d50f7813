"""What a rank takes while it starts and of its host, and that a plan does not fit without it."""

from dataclasses import replace
from typing import Any

import pytest

from configs.base import GIB
from tests.training.sizing.test_fit import LARGE, gpus, recipe
from training.init import fill
from training.network import initial_weights
from training.sizing.activations import expected_attention
from training.sizing.fit import choose_layout, needed_bytes, needed_host_bytes
from training.sizing.memory import predict_memory
from training.sizing.model_size import ModelSize, TrainingLayout
from training.sizing.start import STAGED_BYTES, HostMemory, predict_host, predict_start


def test_what_is_staged_is_what_the_first_weights_and_those_of_files_are_staged_in():
    assert STAGED_BYTES == initial_weights.BLOCK_ELEMENTS * initial_weights._STAGED_BLOCKS * 4 == fill._PIECE_BYTES


HUGE = replace(
    LARGE,
    num_parameters=70 * 10**9,
    num_trained=70 * 10**9,
    largest_matrix=10**9,
    largest_layer=10**9,
    num_layers=80,
)


def layout(**changes: Any) -> TrainingLayout:
    settings = {
        "device": "cuda",
        "num_ranks": 64,
        "zero_stage": 3,
        "micro_batch_size": 1,
        "sequence_length": 4096,
        "precision": "bf16",
        "activation_checkpointing": True,
        "attention": "varlen",
    }
    return TrainingLayout(**(settings | changes))  # type: ignore[arg-type]


def started(size: ModelSize, **changes: Any) -> tuple[int, int]:
    """Bytes on the device at the start, and in a step."""
    setting = layout(**changes)
    steady = predict_memory(size, setting)
    return predict_start(size, setting, steady), steady.total


def host_of(size: ModelSize, *, moves_rows: bool = False, **changes: Any) -> HostMemory:
    setting = layout(**changes)
    return predict_host(size, setting, predict_memory(size, setting), moves_rows=moves_rows)


def test_in_zero_3_a_start_takes_a_share_of_the_model_and_less_than_a_step() -> None:
    start, steady = started(HUGE)
    assert 16 * 70e9 / 64 < start < steady
    assert start < 18 * 70e9 / 64 + 6 * GIB, "the whole model, 130 GiB in bf16, is on no device"


@pytest.mark.parametrize(("precision", "bytes_each"), [("bf16", 4), ("fp32", 8)])
def test_rank_0_holds_the_two_layers_that_are_probed(precision: str, bytes_each: int) -> None:
    """They are more than the share of 512 ranks: such layers have experts."""
    wide = replace(HUGE, num_layers=8, largest_layer=9 * 10**9)
    start, _ = started(wide, num_ranks=512, precision=precision)
    assert bytes_each * 2 * wide.largest_layer <= start < bytes_each * 2 * wide.largest_layer + 4 * GIB
    assert host_of(wide, num_ranks=512, precision=precision).start >= 4 * 2 * wide.largest_layer
    assert host_of(wide, num_ranks=512, device="cpu").start == 0, "there it is the same memory"


@pytest.mark.parametrize("stage", [1, 2])
def test_below_stage_3_a_start_holds_the_parameters_twice(stage: int) -> None:
    """Which in stage 2, whose steps hold little else on many ranks, is more than a step takes."""
    small = replace(LARGE, num_parameters=8 * 10**9, num_trained=8 * 10**9)
    start, steady = started(small, zero_stage=stage, num_ranks=512)
    assert start >= 2 * 2 * 8e9
    assert (start > steady) is (stage == 2)


def test_a_start_that_does_not_fit_rules_a_layout_out() -> None:
    """14 B parameters in stage 2 on 512 ranks: steps take 33 GiB, the start 53."""
    size = replace(LARGE, num_parameters=14 * 10**9, num_trained=14 * 10**9, num_layers=40)
    pool = {"num_nodes": 64, "gib": 56, "zero_stage": 2, "micro_batch_size": 1, "activation_checkpointing": True}
    chosen = choose_layout(size, recipe(sequence_length=512), gpus(**pool)).chosen
    assert chosen.memory.total * 1.25 < 56 * GIB < needed_bytes(chosen, "cuda")
    assert not chosen.fits
    assert choose_layout(size, recipe(sequence_length=512), gpus(**pool | {"gib": 80})).chosen.fits


def test_the_buffer_of_a_checkpoint_is_pinned_in_powers_of_two() -> None:
    assert host_of(HUGE).checkpoint == 16 * GIB, "12 bytes x 70 B / 64 ranks are 12.2 GiB"
    assert host_of(HUGE, device="cpu").checkpoint == -(-12 * HUGE.num_trained // 64)
    frozen = replace(HUGE, num_trained=0)
    assert host_of(frozen, device="cpu").checkpoint == -(-2 * HUGE.num_parameters // 64)


def test_the_host_has_the_offloaded_optimizer_and_what_the_start_needs() -> None:
    plain, offloaded = host_of(HUGE), host_of(HUGE, offload_optimizer=True)
    assert plain.offloaded == 0 and offloaded.offloaded >= 12 * HUGE.num_trained // 64
    assert plain.start >= 4 * 2 * HUGE.largest_layer, "two layers are probed in fp32"
    moved = host_of(replace(HUGE, vocab_size=10**6), moves_rows=True)
    assert moved.start > plain.start
    assert plain.total == plain.process + max(plain.checkpoint, plain.start)


def test_hosts_with_too_little_memory_do_not_fit() -> None:
    pool = {"num_nodes": 8, "gib": 80, "activation_checkpointing": True}
    config = recipe(global_batch_size=64)
    fitting = choose_layout(HUGE, config, gpus(**pool))
    assert fitting.chosen.fits and fitting.chosen.zero_stage == 3
    small = replace(gpus(**pool), host_bytes_per_rank=21 * GIB)
    assert fitting.chosen.host.total < 21 * GIB < needed_host_bytes(fitting.chosen), "within the prediction's error"
    assert not choose_layout(HUGE, config, small).chosen.fits


def test_attention_that_is_left_open_is_reckoned_as_what_the_device_has() -> None:
    assert expected_attention(recipe(), gpus()) == "varlen"
    assert expected_attention(recipe(precision="fp32"), gpus()) == "sdpa"
    assert expected_attention(recipe(), gpus(attention="eager")) == "eager"
    long = recipe(sequence_length=16_384)
    found = {
        name: choose_layout(LARGE, long, gpus(attention=name)).chosen.memory.activations for name in ("auto", "sdpa")
    }
    assert found["sdpa"] > found["auto"] + 32 * 16_384**2, "a mask in each layer"
