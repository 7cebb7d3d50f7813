import platform
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.devices import device_by_driver_name
from cluster.machines import GIB, Node
from cluster.placement import place
from configs.base import Config, Manifest, UserError
from configs.pools import PoolConfig
from configs.training.train import TrainConfig
from pipeline.estimate.basis import Range, find_basis
from pipeline.estimate.links import links_of
from pipeline.estimate.speed import Speed, speed_of
from pipeline.store.artifact import Record, commit
from tests.training.ranks import tiny_config
from training.conform.record import Check, ConformRecord, DeviceRecord, HostRecord, write_record
from training.log.sessions_file import record_gang_start, record_session_start
from training.sizing.recipe_size import find_parameters, measure_model

H100 = [Node(f"n{i}", 16, 8, 2**40, "H100", 80 * GIB) for i in range(2)]


def record(
    stage: str,
    config: Config,
    manifest: Manifest | dict[str, object],
    *,
    seconds: float = 1.0,
    attempts: int = 1,
    **layout: object,
) -> Record:
    """The record of a finished stage, as far as its speed is read of it; `layout` is its placement."""
    return Record.model_validate(
        {
            "step": stage,
            "stage": stage,
            "version": 1,
            "fingerprint": "0" * 64,
            "config": config.model_dump(mode="json"),
            "observed": None,
            "inputs": {},
            "manifest": manifest.model_dump(mode="json") if isinstance(manifest, Manifest) else manifest,
            "files": {},
            "started": datetime.now(UTC),
            "seconds": seconds,
            "attempts": attempts,
            "placement": layout,
            "code": "",
            "packages": {},
            "host": "",
        }
    )


def finished(
    store: Path,
    config: TrainConfig,
    *,
    device: str,
    world_size: int,
    tokens_per_second: float,
    num_hosts: int = 1,
    **layout: object,
) -> None:
    """A finished training in the store, as far as speed is read of it; `layout` is what its record says of that."""
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
        hosts=[socket.gethostname(), *(f"n{i}" for i in range(1, num_hosts))],
        device=device,
        attention="sdpa",
        lost_steps=0,
        lost_until=None,
    )
    commit(out, record("train", config, {"tokens_per_second": tokens_per_second}, **layout))


def expected(config: TrainConfig, nodes: list[Node], store: Path, *, vocab_size: int = 320, **pool: object) -> Speed:
    settings = PoolConfig.model_validate({"micro_batch_size": 1} | pool)
    placement = replace(place(settings, nodes, wandb=None), leaves_open=())
    model = find_parameters(config, vocab_size=vocab_size)
    size = measure_model(model, config)
    basis = find_basis(config, placement, pool=settings, nodes=nodes, store=store)
    links = links_of(settings, device_by_driver_name(basis.device), nodes, placement)
    return speed_of(config, model, size, placement, basis=basis, links=links)


def test_what_was_measured_in_the_same_layout_is_the_speed(tmp_path):
    config = tiny_config(precision="bf16", global_batch_size=64)
    finished(tmp_path, config, device="NVIDIA H100 80GB HBM3", world_size=16, tokens_per_second=1000.0, num_hosts=2)
    speed = expected(tiny_config(precision="bf16", global_batch_size=64, num_steps=9), H100, tmp_path)
    assert speed.tokens_per_second == Range(pytest.approx(1000.0), pytest.approx(1000.0))
    assert speed.source == f"measured in train-{'0' * 12} on 16 ranks of NVIDIA H100 80GB HBM3"


def test_what_was_measured_on_a_cpu_counts_by_rank_and_sequences(tmp_path):
    device = f"{platform.machine()} CPU"
    here = [Node(socket.gethostname(), 8, 0, 2**34)]
    finished(tmp_path, tiny_config(global_batch_size=8), device=device, world_size=2, tokens_per_second=1000.0)
    speed = expected(tiny_config(global_batch_size=8), here, tmp_path, num_ranks=4)
    assert speed.tokens_per_second == Range(pytest.approx(2000.0), pytest.approx(2000.0))
    idle = expected(tiny_config(global_batch_size=9), here, tmp_path, num_ranks=4)  # 3 sequences for the first rank
    assert idle.tokens_per_second == Range(pytest.approx(2000 * 9 / 12), pytest.approx(2000 * 9 / 12))


def test_what_was_measured_is_carried_over_to_more_nodes_within_a_range(tmp_path):
    config = tiny_config(precision="bf16", global_batch_size=64)
    finished(tmp_path, config, device="NVIDIA H100 80GB HBM3", world_size=4, tokens_per_second=1000.0)
    speed = expected(config, H100, tmp_path)
    assert speed.tokens_per_second is not None
    assert 0 < speed.tokens_per_second.low < speed.tokens_per_second.high <= 1000 * 4 * 1.01


def test_recomputation_makes_what_was_measured_slower_by_what_it_computes(tmp_path):
    device = f"{platform.machine()} CPU"
    here = [Node(socket.gethostname(), 8, 0, 2**34)]
    config = tiny_config(
        model={"hidden_size": 512, "intermediate_size": 2048, "num_layers": 8, "num_attention_heads": 4}
    )
    finished(tmp_path, config, device=device, world_size=4, tokens_per_second=1000.0, activation_checkpointing=False)
    slower = expected(config, here, tmp_path, num_ranks=4, activation_checkpointing=True).tokens_per_second
    assert slower is not None
    assert slower.low == slower.high == pytest.approx(1000 * 3 / 4, rel=0.02)


def conform_record(file: Path, *, device: str, kind: str, scale: str, speed: float, detail: str) -> str:
    """A record of `concord conform`, as far as speed is read of it."""
    found = ConformRecord(
        device=DeviceRecord(type=kind, name=device, count=1, memory_bytes=80 * GIB, driver="", capability=""),
        host=HostRecord(cpu="", num_cores=8, memory_bytes=2**34),
        versions={},
        code="",
        started="",
        seconds=1.0,
        scale=scale,
        checks=(Check(name="step speed", value=speed, unit="tokens/s", detail=detail),),
    )
    write_record(file, found)
    return str(file)


def test_a_record_of_conform_takes_the_place_of_what_is_assumed(tmp_path):
    # 24 layers of 4 x 1024^2 + 3 x 1024 x 2816 = 12,845,056, the output 32768 x 1024, at 4,096 tokens
    products = 6 * (24 * 12_845_056 + 32_768 * 1024)
    pairs = 24 * 14 * 1024 * 4097 / 2  # the causal half of 2 + 5 products of 2 x 1024 FLOPs
    path = conform_record(
        tmp_path / "conform.json",
        device="NVIDIA H100 80GB HBM3",
        kind="cuda",
        scale="accelerator-0.3B-bf16",
        speed=0.4 * 989e12 / (products + pairs),
        detail="0.1 s for 8 x 4,096 tokens, bf16, varlen",
    )
    one = [Node("n", 16, 1, 2**40, "H100", 80 * GIB)]
    model = {"hidden_size": 4096, "intermediate_size": 8192, "num_layers": 8, "num_attention_heads": 32}
    config = tiny_config(model=model, precision="bf16", sequence_length=2048)
    speed = expected(config, one, tmp_path, conform=path)
    assert speed.source == f"measured by concord conform: {path}"
    found = speed.tokens_per_second
    assert found is not None and found.low == pytest.approx(found.high)
    own = 6 * (8 * (4 * 4096**2 + 3 * 4096 * 8192) + 320 * 4096) + 8 * 14 * 4096 * 2049 / 2
    assert found.low == pytest.approx(0.4 * 989e12 / own)
    with pytest.raises(UserError, match=r"is of NVIDIA H100 80GB HBM3, and the pool has .*A100.*; name a record"):
        expected(config, [Node("n", 16, 1, 2**40, "A100", 80 * GIB)], tmp_path, conform=path)


def test_a_record_of_conform_on_a_cpu_counts_by_cores(tmp_path):
    path = conform_record(
        tmp_path / "conform.json",
        device="x86_64 CPU",
        kind="cpu",
        scale="cpu",
        speed=400.0,
        detail="1.3 s for 2 x 256 tokens, fp32, sdpa",
    )
    config = tiny_config(global_batch_size=8)
    few, many = (
        expected(config, [Node("n", 8, 0, 2**34)], tmp_path, conform=path, num_ranks=n, cpus_per_rank=2) for n in (2, 4)
    )
    assert few.tokens_per_second is not None and many.tokens_per_second is not None
    assert many.tokens_per_second.low == pytest.approx(2 * few.tokens_per_second.low)
    other = expected(tiny_config(precision="bf16"), [Node("n", 8, 0, 2**34)], tmp_path, conform=path)
    assert other.tokens_per_second is None  # nothing of bf16 was measured


def test_a_quick_record_of_conform_says_nothing_of_speed(tmp_path):
    path = conform_record(tmp_path / "c.json", device="x86_64 CPU", kind="cpu", scale="quick", speed=9.0, detail="")
    with pytest.raises(UserError, match="run `concord conform` without --quick"):
        expected(tiny_config(), [Node("n", 8, 0, 2**34)], tmp_path, conform=path)


def test_a_slower_network_makes_training_slower_and_the_file_says_it(tmp_path):
    model = {"hidden_size": 2048, "intermediate_size": 8192, "num_layers": 16, "num_attention_heads": 16}
    config = tiny_config(model=model, precision="bf16", global_batch_size=32, sequence_length=2048)
    given = {"cpus_per_node": 16, "memory_gib_per_node": 1024, "accelerators_per_node": 8}
    fast, slow, assumed = (
        expected(config, H100, tmp_path, zero_stage=3, num_nodes=2, machines=given | more)
        for more in ({"network_gbps_per_node": 3200}, {"network_gbps_per_node": 100}, {})
    )
    assert slow.links.endswith("100 Gbit/s from node to node (network_gbps_per_node)")
    assert "3,200 Gbit/s from node to node (assumed: a reference machine of NVIDIA H100 80GB HBM3" in assumed.links
    assert assumed.tokens_per_second == fast.tokens_per_second
    assert slow.slow_step is not None and fast.slow_step is not None
    # 32 times slower than 400 GB/s, of which the 450 GB/s of NVLink take nothing
    assert slow.slow_step.exchange == pytest.approx(32 * fast.slow_step.exchange)


def test_gpus_whose_links_are_not_known_are_said_to_exchange_for_nothing(tmp_path):
    nodes = [Node("n", 16, 8, 2**40, "AMD-Instinct-MI300A", 80 * GIB)]
    speed = expected(tiny_config(precision="bf16", global_batch_size=8), nodes, tmp_path, untested=True)
    assert speed.links.startswith("not reckoned")


@pytest.mark.parametrize(
    ("device", "changes"), [("NVIDIA A100-SXM4-80GB", {}), ("NVIDIA H100 80GB HBM3", {"sequence_length": 32})]
)
def test_another_device_or_another_model_says_nothing(tmp_path, device, changes):
    finished(tmp_path, tiny_config(precision="bf16"), device=device, world_size=4, tokens_per_second=1000.0)
    speed = expected(tiny_config(precision="bf16", **changes), H100, tmp_path)
    assert speed.source.startswith("assumed: 25% to 50%")
    found = speed.tokens_per_second
    assert found is not None and 2 * found.low <= found.high
    # 16 ranks with a sequence each at most: no model is so small that its two layers take less than 0.6 ms
    assert found.high < 5 * changes.get("sequence_length", 16) / 0.6e-3


def test_the_speed_of_a_cpu_that_was_not_measured_is_not_known(tmp_path):
    speed = expected(tiny_config(), [Node("elsewhere", 8, 0, 2**34)], tmp_path)
    assert speed.tokens_per_second is None
    assert speed.source.startswith("not known")


def test_a_gpu_that_is_in_no_table_is_not_guessed(tmp_path):
    speed = expected(tiny_config(precision="bf16"), [Node("a", 8, 1, 2**34, "T4", 16 * GIB)], tmp_path)
    assert speed.tokens_per_second is None
    assert "the peak of this GPU" in speed.source


PUBLISHED = [
    # accelerator, GPUs, tokens a sequence, (feed-forward width, key and value heads, pieces), tokens a second of a GPU
    ("H100", 8, 2048, (10_922, 32, 50_368), 10_643),  # llm-foundry's benchmarks, MPT 6.7B
    ("A100-80G", 8, 2048, (10_922, 32, 50_368), 4_641),
    ("H100", 64, 4096, (11_008, 32, 100_352), 9_700),  # OLMo-core's release notes, 7B
    ("H100", 8, 8192, (14_336, 8, 128_256), 5_762),  # torchtitan's benchmarks, Llama 3.1 8B
    ("H100", 8, 8192, (14_336, 8, 128_256), 6_667),  # compiled
    ("H100", 96, 4096, (11_008, 32, 32_000), 7_500),  # fms-fsdp, Llama 2 7B
    ("H100", 96, 4096, (11_008, 32, 32_000), 9_600),  # compiled
    ("A100-80G", 128, 4096, (11_008, 32, 32_000), 4_550),
]


@pytest.mark.parametrize(("kind", "ranks", "length", "shape", "published"), PUBLISHED)
def test_what_others_have_published_lies_in_the_range(tmp_path, kind, ranks, length, shape, published):
    ffn_size, num_keys, vocab_size = shape
    rows = 16_384 // length  # what the plan takes where it fits
    model = {
        "hidden_size": 4096,
        "intermediate_size": ffn_size,
        "num_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": num_keys,
    }
    config = tiny_config(model=model, precision="bf16", sequence_length=length, global_batch_size=rows * ranks)
    nodes = [Node(f"n{i}", 64, 8, 2**40, kind, 80 * GIB) for i in range(ranks // 8)]
    speed = expected(config, nodes, tmp_path, vocab_size=vocab_size, zero_stage=3, micro_batch_size=rows)
    found = speed.tokens_per_second
    assert found is not None
    assert found.low / ranks < published < found.high / ranks
    assert found.high < 3 * found.low
