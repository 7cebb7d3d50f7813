"""Pools with members: what they share, and what they are refused for."""

from typing import Any

import pytest
from pydantic import ValidationError

from configs.pools import PoolConfig

H100, A100 = {"accelerator": "H100"}, {"accelerator": "A100"}


def pool_of(*members: dict[str, Any], **settings: Any) -> PoolConfig:
    return PoolConfig.model_validate({"members": list(members), **settings})


def test_what_a_member_leaves_out_is_as_in_the_pool():
    first, second = pool_of({**H100, "num_ranks": 3}, A100, num_ranks=2, micro_batch_size=4, min_ranks=1).kinds()
    assert (first.accelerator, first.num_ranks, first.micro_batch_size) == ("H100", 3, 4)
    assert (second.accelerator, second.num_ranks, second.micro_batch_size) == ("A100", 2, 4)
    assert first.min_ranks is second.min_ranks is None  # it is for all together
    assert first.members == ()


def test_a_pool_without_members_is_its_own_kind():
    pool = PoolConfig(num_ranks=2)
    assert pool.kinds() == (pool,)


def test_the_most_ranks_are_those_of_all_members():
    assert pool_of({**H100, "num_ranks": 3}, A100, num_ranks=2).most_ranks == 5
    assert pool_of({**H100, "num_ranks": 3}, A100).most_ranks is None


@pytest.mark.parametrize(
    ("members", "settings", "problem"),
    [
        ([H100], {}, "members has one kind of machine; write its keys in the pool itself"),
        ([H100, {**A100, "zero_stage": 2}], {}, "number 2 has a `zero_stage` of its own, which all share"),
        ([{**H100, "min_ranks": 1}, A100], {"min_ranks": 2}, "number 1 has a `min_ranks` of its own"),
        ([H100, {**A100, "device": "cpu"}], {}, "members: number 2: accelerator A100 is for GPUs, and device is cpu"),
        (
            [H100, {"accelerator": "AMD-Instinct-MI300X-OAM"}],
            {},
            "members: number 2: accelerator .* is of AMD, on whose",
        ),
        (
            [H100, {"accelerator": "AMD-Instinct-MI300X-OAM"}],
            {"untested": True},
            "members have GPUs of AMD and NVIDIA, which cannot train together",
        ),
        ([H100, {"device": "cpu"}], {}, "members have GPUs and CPUs, which cannot train together"),
        (
            [{**H100, "activation_checkpointing": False}, {**A100, "activation_checkpointing": True}],
            {"zero_stage": 3},
            "members differ in activation_checkpointing, which ZeRO stage 3 does not allow",
        ),
        ([{**H100, "num_ranks": 1}, {**A100, "num_ranks": 2}], {"min_ranks": 4}, "min_ranks is 4, more than num_ranks"),
    ],
)
def test_members_that_do_not_go_together_are_refused(members, settings, problem):
    with pytest.raises(ValueError, match=problem):
        pool_of(*members, **settings)


def test_a_member_may_repeat_what_all_share():
    assert pool_of({**H100, "zero_stage": 2}, A100, zero_stage=2).kinds()[0].zero_stage == 2


def test_what_is_measured_and_what_is_deterministic_exclude_each_other():
    with pytest.raises(ValidationError, match="balance: speed hangs on what is measured"):
        PoolConfig(balance="speed", deterministic=True)
    assert PoolConfig(deterministic=True).balance == "auto"
