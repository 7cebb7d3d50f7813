"""The prediction against what benchmarks/memory_model.py measured, and its laws."""

import math
from dataclasses import replace

import pytest

from configs.deepspeed import ZeroOptimizationConfig
from training.network import loss_chunks
from training.network.loss_chunks import max_chunk_tokens
from training.sizing.activations import logits_bytes
from training.sizing.memory import PREDICTION_ERROR, Memory, predict_memory
from training.sizing.model_size import ModelSize, TrainingLayout

MEDIUM = ModelSize(
    num_parameters=12_193_152,
    num_trained=12_193_152,
    num_muon=0,
    num_averaged=0,
    largest_muon=0,
    largest_muon_matrix=0,
    muon_of_one_shape=0,
    largest_matrix=4096 * 384,
    largest_layer=4 * 384 * 384 + 3 * 384 * 1024 + 2 * 384,
    vocab_size=4096,
    hidden_size=384,
    ffn_size=1024,
    num_layers=6,
    num_heads=6,
    head_dim=64,
    num_key_value_heads=6,
    num_norms=2,
    has_head_norm=False,
)
ONE = TrainingLayout("cpu", 1, 1, 1, 256, "fp32")


def total(size: ModelSize, setting: TrainingLayout) -> int:
    """Without the process."""
    found = predict_memory(size, setting)
    return found.total - found.process


@pytest.mark.parametrize(("stage", "measured"), [(0, 245.01), (1, 268.27), (2, 241.63), (3, 325.60)])
def test_the_prediction_is_near_what_two_ranks_were_measured_to_hold(stage, measured):
    setting = replace(ONE, num_ranks=2, zero_stage=stage)
    assert total(MEDIUM, setting) / 2**20 == pytest.approx(measured, rel=PREDICTION_ERROR)


def test_the_prediction_of_stage_1_in_bf16_is_near_what_two_ranks_were_measured_to_hold():
    setting = replace(ONE, num_ranks=2, precision="bf16", sequence_length=16)
    assert total(MEDIUM, setting) / 2**20 == pytest.approx(209.34, rel=PREDICTION_ERROR)


def test_more_ranks_hold_less_of_what_is_sharded_and_all_of_what_is_not():
    for stage, sharded in ((1, {"optimizer"}), (2, {"optimizer", "gradients"}), (3, {"optimizer", "gradients"})):
        few = predict_memory(MEDIUM, replace(ONE, num_ranks=2, zero_stage=stage)).parts
        many = predict_memory(MEDIUM, replace(ONE, num_ranks=64, zero_stage=stage)).parts
        assert {name for name in few if many[name] < few[name]} == sharded | ({"parameters"} if stage == 3 else set())


def test_large_models_take_the_published_bytes_a_parameter():
    """Rajbhandari et al., ZeRO (arXiv 1910.02054), figure 1: 2 + 2 + 12 bytes in mixed precision; here the gradients'
    sum is fp32, 4 bytes, beside which those of a pass are there one by one, and the part that the rank owns."""
    large = replace(MEDIUM, num_parameters=7_000_000_000, num_trained=7_000_000_000)
    setting = replace(ONE, device="cuda", precision="bf16", num_ranks=64)
    held = predict_memory(large, setting)
    assert held.parameters == 2 * 7e9
    assert held.gradients == pytest.approx((4 + 4 / 64) * 7e9, rel=1e-3)
    assert held.optimizer == pytest.approx(12 * 7e9 / 64)
    assert predict_memory(large, replace(setting, zero_stage=0)).gradients == (2 + 4) * 7e9


def with_keys(**zero: object) -> TrainingLayout:
    """A GPU of 64 in bf16, with keys of DeepSpeed's."""
    keys = ZeroOptimizationConfig.model_validate(zero)
    return replace(ONE, device="cuda", precision="bf16", num_ranks=64, zero_optimization=keys)


@pytest.mark.parametrize(("stage", "width"), [(1, 4), (2, 2)])
def test_a_second_bucket_is_the_price_of_reducing_behind_the_pass(stage, width):
    large = replace(MEDIUM, num_parameters=7 * 10**9, num_trained=7 * 10**9)
    plain = replace(with_keys(overlap_comm=False), zero_stage=stage)
    both = replace(with_keys(overlap_comm=True), zero_stage=stage)
    more = predict_memory(large, both).total - predict_memory(large, plain).total
    assert more == pytest.approx(width * 200_000_000, rel=0.1)
    assert predict_memory(large, both) == predict_memory(large, replace(with_keys(), zero_stage=stage))


def test_what_the_pool_asks_of_buffers_is_counted():
    large = replace(MEDIUM, num_parameters=7 * 10**9, num_trained=7 * 10**9)

    def in_stage_3(**zero: object) -> Memory:
        return predict_memory(large, replace(with_keys(**zero), zero_stage=3))

    plain = in_stage_3()
    assert in_stage_3(reduce_bucket_size=400_000_000).buffers > 1.5 * plain.buffers
    assert plain.parameters - in_stage_3(stage3_max_live_parameters=0).parameters == 2 * 10**9
    second = in_stage_3(zero_hpz_partition_size=8).parameters - plain.parameters
    assert second == 2 * 7 * 10**9 // 8
    assert plain.buffers - in_stage_3(stage3_prefetch_bucket_size=0).buffers == 2 * 50_000_000
    unbuffered = predict_memory(large, with_keys(contiguous_gradients=False))
    assert unbuffered.buffers < predict_memory(large, with_keys()).buffers


def test_recomputing_keeps_one_layer_and_the_inputs_of_the_others():
    whole = predict_memory(MEDIUM, replace(ONE, micro_batch_size=8))
    saved = predict_memory(MEDIUM, replace(ONE, micro_batch_size=8, activation_checkpointing=True))
    assert saved.activations < whole.activations / 3
    assert replace(saved, activations=whole.activations) == whole


def test_offloading_moves_the_optimizer_into_host_memory():
    held = predict_memory(MEDIUM, replace(ONE, device="cuda", offload_optimizer=True))
    assert held.optimizer == 0
    assert held.offloaded >= 12 * MEDIUM.num_trained


@pytest.mark.parametrize(("stage", "copies"), [(1, 6), (2, 6), (3, 8)])
def test_an_offloaded_optimizer_reads_copies_that_are_page_locked(stage: int, copies: int) -> None:
    """Beside its 12 bytes: gradients, and the updated weights in bf16 below ZeRO-3, whose sum of gradients is there."""
    layout = replace(ONE, device="cuda", precision="bf16", zero_stage=stage, num_ranks=4, offload_optimizer=True)
    plain = replace(layout, zero_optimization=ZeroOptimizationConfig(offload_optimizer={"pin_memory": False}))
    share, largest = MEDIUM.num_trained // 4, MEDIUM.largest_matrix
    passing = 2 * largest if stage < 3 else 0
    assert predict_memory(MEDIUM, plain).offloaded == pytest.approx((12 + copies) * share + passing, rel=1e-6)
    buffers = [4 * share] * 3 if stage == 3 else [4 * share, 4 * share, 2 * share, passing]
    powers = sum(2 ** math.ceil(math.log2(size)) for size in buffers)
    assert predict_memory(MEDIUM, layout).offloaded == pytest.approx(8 * share + powers, rel=1e-6)
    held = predict_memory(MEDIUM, replace(layout, offload_optimizer=False))
    assert (predict_memory(MEDIUM, layout).gradients < held.gradients) is (stage == 3)


def test_muon_has_a_moment_less_and_frozen_parameters_have_none():
    assert predict_memory(replace(MEDIUM, num_muon=10_000_000), ONE).optimizer == 12 * 12_193_152 - 4 * 10_000_000
    frozen = predict_memory(replace(MEDIUM, num_trained=1_000_000), ONE)
    assert frozen.optimizer == 12_000_000
    assert frozen.parameters == predict_memory(MEDIUM, ONE).parameters


WITH_MUON = replace(
    MEDIUM, num_muon=10_616_832, largest_muon=393_216, largest_muon_matrix=393_216, muon_of_one_shape=4_718_592
)


@pytest.mark.parametrize(("stage", "precision", "measured"), [(0, "bf16", 286.60), (1, "fp32", 280.58)])
def test_the_prediction_is_near_what_a_rank_with_muon_was_measured_to_hold(stage, precision, measured):
    setting = replace(ONE, zero_stage=stage, precision=precision, sequence_length=16)
    assert total(WITH_MUON, setting) / 2**20 == pytest.approx(measured, rel=PREDICTION_ERROR)


@pytest.mark.parametrize(("device", "num_bytes"), [("cpu", 4 + 4 * 4), ("cuda", 4 + 4 * 2)])
def test_muon_holds_its_largest_matrix_in_fp32_and_iterates_four_of_its_size_in_bf16_on_a_gpu(device, num_bytes):
    setting = replace(ONE, device=device, num_ranks=64, zero_stage=3, precision="bf16")
    size = replace(MEDIUM, num_trained=8 * 10**9, num_muon=7 * 10**9)
    held = [total(replace(size, largest_muon=n, largest_muon_matrix=n), setting) for n in (10**9, 2 * 10**9)]
    assert held[1] - held[0] == num_bytes * 10**9


def test_a_chunk_of_logits_is_the_one_that_the_loss_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = replace(ONE, micro_batch_size=8)
    rows = max_chunk_tokens(MEDIUM.vocab_size, device="cpu")
    assert logits_bytes(MEDIUM, setting) == 4 * MEDIUM.vocab_size * 2 * rows  # a chunk, and the one before
    monkeypatch.setattr(loss_chunks, "CPU_CHUNK_ELEMENTS", 2 * loss_chunks.CPU_CHUNK_ELEMENTS)
    assert max_chunk_tokens(MEDIUM.vocab_size, device="cpu") == 2 * rows
    assert logits_bytes(MEDIUM, setting) == 4 * MEDIUM.vocab_size * 4 * rows


def test_eager_attention_keeps_the_weights_of_every_pair():
    fused, eager = predict_memory(MEDIUM, ONE), predict_memory(MEDIUM, replace(ONE, attention="eager"))
    assert eager.activations - fused.activations == 6 * (6 - 1) * 256 * 256 * 4  # but no mask
