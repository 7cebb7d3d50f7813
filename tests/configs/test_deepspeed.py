"""Which keys of DeepSpeed's a pool may set, and what is said of the others."""

import re
from pathlib import Path

import pytest
import yaml

from configs.base import Config, ConfigError
from configs.cluster import ClusterConfig
from configs.deepspeed import CommsLoggerConfig, DeepSpeedConfig, OffloadOptimizerConfig, ZeroOptimizationConfig
from configs.load import load
from configs.pools import PoolConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is said of a pool with these lines, without the place of the file."""
    path = tmp_path / "c.yaml"
    path.write_text(f"pools:\n  default:\n{text}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, ClusterConfig)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


REFUSED = """\
    deepspeed:
      gradient_clipping: 1.0
      bf16: {enabled: true}
      train_batch_size: 64
      zero_optimisation: {}
      zero_optimization:
        stage: 3
        overlap_com: true
        zero_quantized_weights: true
        round_robin_gradients: true
        reduce_bucket_size: 0
        contiguous_gradients: maybe
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (4, "pools.default.deepspeed.gradient_clipping cannot be set here: it changes what is made, so the recipe's "),
        (5, "pools.default.deepspeed.bf16 cannot be set here: it changes what is made, so the recipe's `precision` "),
        (6, "pools.default.deepspeed.train_batch_size cannot be set here: it changes what is made, so the recipe's "),
        (7, "unknown key 'zero_optimisation' in pools.default.deepspeed; did you mean 'zero_optimization'?"),
        (9, "pools.default.deepspeed.zero_optimization.stage cannot be set here: the pool's `zero_stage` says it"),
        (10, "unknown key 'overlap_com' in pools.default.deepspeed.zero_optimization; did you mean 'overlap_comm'?"),
        (
            11,
            "pools.default.deepspeed.zero_optimization.zero_quantized_weights cannot be set here: it changes what is ",
        ),
        (12, "pools.default.deepspeed.zero_optimization.round_robin_gradients cannot be set here: with it DeepSpeed "),
        (13, "pools.default.deepspeed.zero_optimization.reduce_bucket_size is 0: input should be greater than or "),
        (14, "pools.default.deepspeed.zero_optimization.contiguous_gradients is 'maybe': input should be a valid "),
    ],
)
def test_each_key_that_cannot_be_set_has_its_line_and_what_to_do(tmp_path: Path, line: int, said: str) -> None:
    found = problems(tmp_path, REFUSED)
    assert len(found) == 10
    assert any(problem.startswith(f"c.yaml:{line}: {said}") for problem in found)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("zero_optimization: {zero_hpz_partition_size: 8}", "for ZeRO stage 3; set zero_stage: 3"),
        ("zero_optimization: {offload_optimizer: {pin_memory: false}}", "for offload_optimizer: true; set it too"),
    ],
)
def test_keys_that_ask_for_a_setting_of_the_pool_say_so(tmp_path: Path, pool: str, said: str) -> None:
    (problem,) = problems(tmp_path, f"    deepspeed: {{{pool}}}\n")
    assert said in problem


@pytest.mark.parametrize(
    ("stage", "key", "said"),
    [
        (0, "overlap_comm: true", "does nothing in ZeRO stage 0; leave it out, or set zero_stage: 1 or 2 or 3"),
        (1, "stage3_prefetch_bucket_size: 5", "does nothing in ZeRO stage 1; leave it out, or set zero_stage: 3"),
        (2, "sub_group_size: 5", "does nothing in ZeRO stage 2"),
        (3, "use_multi_rank_bucket_allreduce: true", "leave it out, or set zero_stage: 1 or 2"),
    ],
)
def test_a_key_that_does_nothing_in_the_pools_stage_is_refused(tmp_path: Path, stage: int, key: str, said: str) -> None:
    pool = f"    zero_stage: {{}}\n    deepspeed: {{{{zero_optimization: {{{{{key}}}}}}}}}\n"
    (problem,) = problems(tmp_path, pool.format(stage))
    assert f"deepspeed.zero_optimization.{key.partition(':')[0]} does nothing" in problem and said in problem
    other = {0: 1, 1: 3, 2: 3, 3: 2}[stage]
    (tmp_path / "other.yaml").write_text(f"pools:\n  default:\n{pool.format(other)}", encoding="utf-8")
    assert load(tmp_path / "other.yaml", ClusterConfig).config.pools["default"].zero_stage == other


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_pool_is_read_again_from_all_its_keys(stage: int) -> None:
    """As a run's record holds them: what is null there was not set."""
    pool = PoolConfig(zero_stage=stage)  # type: ignore[arg-type]
    assert PoolConfig.model_validate(pool.model_dump(mode="json")) == pool


def test_collectives_to_be_logged_are_known(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "    deepspeed: {comms_logger: {enabled: true, prof_ops: [allreduce]}}\n")
    assert "prof_ops" in problem and "'all_reduce'" in problem


def test_a_second_copy_of_the_weights_is_not_for_elastic_pools(tmp_path: Path) -> None:
    key = "deepspeed: {zero_optimization: {zero_hpz_partition_size: 8}}"
    (problem,) = problems(tmp_path, f"    zero_stage: 3\n    min_ranks: 8\n    {key}\n")
    assert "leave one of the two out" in problem


def test_numbers_may_be_written_as_deepspeeds_documents_write_them(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("pools: {default: {deepspeed: {zero_optimization: {reduce_bucket_size: 2e8}}}}", encoding="utf-8")
    pool = load(path, ClusterConfig).config.pools["default"]
    assert pool.deepspeed.zero_optimization.reduce_bucket_size == 200_000_000


CLASSES: dict[str, type[Config]] = {
    "": DeepSpeedConfig,
    "zero_optimization.": ZeroOptimizationConfig,
    "zero_optimization.offload_optimizer.": OffloadOptimizerConfig,
    "comms_logger.": CommsLoggerConfig,
}


def test_the_table_in_the_document_has_each_key_that_may_be_set() -> None:
    keys = {f"{prefix}{name}" for prefix, kind in CLASSES.items() for name in kind.model_fields}
    groups = {prefix.removesuffix(".") for prefix in CLASSES if prefix}
    table = re.findall(r"^\| `([\w.]+)` \| [^|]+ \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    listed = [name for name in table if name in keys or "." in name]
    assert sorted(listed) == sorted(keys - groups)


def test_no_reason_is_a_sentence_of_its_own() -> None:
    """Each stands after a colon, and says what to do."""
    for kind in CLASSES.values():
        for key, reason in kind.refused.items():
            assert yaml.safe_load(key) == key
            assert not reason.endswith("."), key
            assert reason[0].islower() or reason.startswith(("Concord", "DeepSpeed")), key
