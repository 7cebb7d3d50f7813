"""What a step exchanges and how long it takes, against arithmetic by hand."""

from dataclasses import replace
from math import inf

import pytest

from cluster.devices import device_by_ray_name, peak_of
from cluster.machines import GIB, Node
from cluster.placement import Placement, place
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from tests.training.sizing.test_fit import LARGE, recipe
from training.sizing.step_time import Reach, StepTime, predict_step
from training.sizing.traffic import Traffic, predict_traffic

P = 8e9
"""Parameters of LARGE, all of them trained."""


def gpus(num_ranks: int = 8, *, stage: int, rows: int = 1, **pool) -> Placement:
    nodes = [Node(f"n{i}", 64, 8, 2**40, "H100", 80 * GIB) for i in range(max(1, num_ranks // 8))]
    return place(PoolConfig(num_ranks=num_ranks, zero_stage=stage, micro_batch_size=rows, **pool), nodes, wandb=None)


def traffic(placement: Placement, **changes) -> Traffic:
    return predict_traffic(LARGE, recipe(**changes), placement)


def test_what_has_no_bf16_in_hardware_multiplies_in_fp32():
    assert peak_of(device_by_ray_name("V100"), "bf16") == 15.7e12
    assert peak_of(device_by_ray_name("A100"), "bf16") == 312e12


def test_zero_1_sends_gradients_and_weights_once_a_step():
    sent = traffic(gpus(stage=1))
    assert sent.gradients_per_step == pytest.approx(P * 4 * 7 / 8)
    assert sent.weights_per_step == pytest.approx(P * 2 * 7 / 8)
    assert sent.per_pass == 0


def test_zero_0_reduces_to_all_which_is_twice_what_an_owner_takes():
    assert traffic(gpus(stage=0)).gradients_per_step == pytest.approx(2 * P * 4 * 7 / 8)


def test_zero_2_sends_gradients_in_each_pass():
    sent = traffic(gpus(stage=2), reduce_precision="bf16")
    assert (sent.per_pass, sent.gradients_per_step) == (pytest.approx(P * 2 * 7 / 8), 0)
    assert sent.weights_per_step == pytest.approx(P * 2 * 7 / 8)


def test_zero_3_sends_half_as_much_again_as_zero_2_in_a_pass():
    """In one precision, as the paper counts it: two gathers and a reduce-scatter, against one of each."""
    two, three = (traffic(gpus(stage=stage), reduce_precision="bf16") for stage in (2, 3))
    assert three.per_pass == pytest.approx(3 * P * 2 * 7 / 8)
    assert three.per_pass / (two.per_pass + two.weights_per_step) == pytest.approx(1.5)


def test_zero_plus_plus_halves_weights_quarters_gradients_and_gathers_once_from_far():
    plain, less = traffic(gpus(stage=3)), traffic(gpus(stage=3), zero_quantized_weights=True)
    assert plain.per_pass - less.per_pass == pytest.approx(2 * P * 1 * 7 / 8)
    fewer = traffic(gpus(stage=3), zero_quantized_gradients=True)
    assert plain.per_pass - fewer.per_pass == pytest.approx(P * 3.5 * 7 / 8)
    near = gpus(16, stage=3, deepspeed={"zero_optimization": {"zero_hpz_partition_size": 8}})
    assert traffic(near).per_pass == pytest.approx((2 + 4) * P * 15 / 16)
    assert traffic(near).per_pass_near == pytest.approx(2 * P * 7 / 8)


def test_few_elements_for_each_of_many_ranks_are_reduced_to_all():
    many = gpus(512, stage=1)
    assert traffic(many).gradients_per_step == pytest.approx(2 * P * 4 * 511 / 512)


def test_an_offloaded_optimizer_gets_gradients_and_gives_weights():
    assert traffic(gpus(stage=1, offload_optimizer=True)).host_per_step == (4 + 2) * P / 8
    in_passes = traffic(gpus(stage=3, offload_optimizer=True))
    assert (in_passes.host_per_pass, in_passes.host_per_step) == (4 * P / 8, 2 * P / 8)


SLOW = Reach(1e14, None, 1e11, 1e11, 1e10, inf, 0.0, overlaps=False)


def step(placement: Placement, reach: Reach = SLOW, **changes) -> StepTime:
    config: TrainConfig = recipe(**changes)
    recomputed = 2 * P if placement.activation_checkpointing else 0
    return predict_step(LARGE, config, placement, flops=6 * P, recomputed_flops=recomputed, reach=reach)


def test_a_step_computes_the_sequences_of_the_rank_with_most():
    # 100 sequences over 8 ranks are 13 for the first: 13 x 2,048 tokens of 6 x 8e9 FLOPs at 1e14 a second
    assert step(gpus(stage=1), global_batch_size=100).compute == pytest.approx(13 * 2048 * 48e9 / 1e14)


def test_recomputation_takes_a_third_more():
    kept, again = step(gpus(stage=1)), step(gpus(stage=1, activation_checkpointing=True))
    assert again.recompute == pytest.approx(kept.compute / 3)
    assert again.compute == kept.compute


def test_each_pass_of_zero_3_exchanges_so_fewer_passes_are_faster():
    one, four = (step(gpus(stage=3, rows=rows), global_batch_size=32) for rows in (1, 4))
    assert one.exchange == pytest.approx(4 * (2 * 2 + 4) * P * 7 / 8 / 1e11)
    assert four.exchange == pytest.approx(one.exchange / 4)
    assert step(gpus(stage=1, rows=1), global_batch_size=32).exchange == pytest.approx((4 + 2) * P * 7 / 8 / 1e11)


def test_a_pass_moves_weights_and_gradients_through_memory_however_few_its_sequences():
    reach = replace(SLOW, memory_bytes=1e12)
    one, four = (step(gpus(stage=1, rows=rows), reach, global_batch_size=32) for rows in (1, 4))
    assert one.passes == pytest.approx(4 * four.passes)
    assert four.passes == pytest.approx((3 * 2 + 2 * 2 + 8) * P / 1e12)
    assert step(gpus(stage=3, rows=4), reach, global_batch_size=32).passes == pytest.approx((6 + 4 + 1) * P / 1e12)
    assert four.update == pytest.approx(30 * P / 8 / 1e12)


def test_no_pass_is_shorter_than_the_launch_of_its_kernels():
    reach = replace(SLOW, flops=1e30, layer_seconds=0.001)
    assert step(gpus(stage=1), reach, global_batch_size=32).passes == pytest.approx(4 * 32 * 0.001)
    long = step(gpus(stage=1), replace(SLOW, layer_seconds=0.001), global_batch_size=32)
    assert long.passes == 0
    again = gpus(stage=1, activation_checkpointing=True)
    assert step(again, reach, global_batch_size=32).passes == pytest.approx(4 * 32 * 0.001 * 4 / 3)


def test_exchange_behind_a_pass_costs_what_is_longer_than_the_pass():
    reach = replace(SLOW, overlaps=True)
    hidden = step(gpus(stage=3), reach, global_batch_size=8)
    sent, computed = (2 * 2 + 4) * P * 7 / 8 / 1e11, 2048 * 48e9 / 1e14
    assert sent < computed and hidden.exchange == 0
    assert step(gpus(stage=3), replace(reach, far_bytes=1e10)).exchange == pytest.approx(32 * (10 * sent - computed))
    off = gpus(stage=3, deepspeed={"zero_optimization": {"overlap_comm": False}})
    assert step(off, reach, global_batch_size=8).exchange == pytest.approx(sent)


def test_an_update_on_the_host_waits_for_the_way_there_and_for_its_memory():
    reach = replace(SLOW, host_memory_bytes=1e10)
    found = step(gpus(stage=1, offload_optimizer=True), reach)
    assert found.update == pytest.approx(30 * P / 8 / 1e10 + 6 * P / 8 / 1e10)


def test_one_rank_exchanges_nothing():
    assert step(gpus(1, stage=3)).exchange == 0
