import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.machines import GIB, Node
from cluster.placement import place
from configs.pools import PoolConfig
from configs.training import TrainConfig
from pipeline.estimate.speed import Speed, speed_of
from pipeline.store.artifact import Record, commit
from tests.training.ranks import tiny_config
from training.log.sessions_file import record_gang_start, record_session_start
from training.sizing.recipe_size import find_parameters

H100 = [Node(f"n{i}", 16, 8, 2**40, "H100", 80 * GIB) for i in range(2)]


def finished(store: Path, config: TrainConfig, *, device: str, world_size: int, tokens_per_second: float) -> None:
    """A finished training in the store, as far as speed is read of it."""
    out = store / f"train-{'0' * 12}"
    out.mkdir(parents=True)
    session = record_session_start(out)
    record_gang_start(
        out,
        session=session,
        step=0,
        num_restarts=0,
        world_size=world_size,
        zero_stage=1,
        hosts=[socket.gethostname()],
        device=device,
        attention="sdpa",
        lost_steps=0,
        lost_until=None,
    )
    record = Record(
        step="model",
        stage="train",
        version=1,
        fingerprint="0" * 64,
        config=config.model_dump(mode="json"),
        observed=None,
        inputs={},
        manifest={"tokens_per_second": tokens_per_second},
        files={},
        started=datetime.now(UTC),
        seconds=1.0,
        attempts=1,
        placement={},
        code="",
        packages={},
        host="",
    )
    commit(out, record)


def expected(config: TrainConfig, nodes: list[Node], store: Path) -> Speed:
    placement = place(PoolConfig(), nodes, wandb=None)
    model = find_parameters(config, vocab_size=320)
    return speed_of(config, model, placement, accelerator=None, nodes=nodes, store=store)


def test_what_was_measured_on_the_same_device_counts_by_rank(tmp_path):
    config = tiny_config(precision="bf16", global_batch_size=64)
    finished(tmp_path, config, device="NVIDIA H100 80GB HBM3", world_size=4, tokens_per_second=1000.0)
    speed = expected(tiny_config(precision="bf16", global_batch_size=64, num_steps=9), H100, tmp_path)
    assert speed.tokens_per_second == pytest.approx(1000 / 4 * 16)
    assert speed.source == f"measured in train-{'0' * 12} on 4 ranks of NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("device", "changes"), [("NVIDIA A100-SXM4-80GB", {}), ("NVIDIA H100 80GB HBM3", {"sequence_length": 32})]
)
def test_another_device_or_another_model_says_nothing(tmp_path, device, changes):
    finished(tmp_path, tiny_config(precision="bf16"), device=device, world_size=4, tokens_per_second=1000.0)
    speed = expected(tiny_config(precision="bf16", **changes), H100, tmp_path)
    assert speed.source.startswith("assumed: 40%")


def test_the_speed_of_a_cpu_that_was_not_measured_is_not_known(tmp_path):
    speed = expected(tiny_config(), [Node("elsewhere", 8, 0, 2**34)], tmp_path)
    assert speed.tokens_per_second is None
    assert speed.source.startswith("not known")


def test_a_gpu_that_is_in_no_table_is_not_guessed(tmp_path):
    speed = expected(tiny_config(precision="bf16"), [Node("a", 8, 1, 2**34, "T4", 16 * GIB)], tmp_path)
    assert speed.tokens_per_second is None
    assert "the peak of this GPU" in speed.source
