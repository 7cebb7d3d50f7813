import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from configs.base import ConfigError, UserError
from pipeline.cli.show_plan import show_plan
from pipeline.recipe import read_recipe

ROOT = Path(__file__).parents[3]
RECIPE = """\
name: toy
store: store
steps:
  corpus: {stage: clean, config: {sources: [{name: words, kind: json_lines, paths: [words.jsonl], language: en}]}}
  tokenizer: {stage: train_tokenizer, inputs: {corpus: corpus}, config: {vocab_size: 32000}}
  tokens: {stage: tokenize, inputs: {corpus: corpus, tokenizer: tokenizer}}
  model:
    stage: train
    inputs: {tokens: tokens, tokenizer: tokenizer}
    config:
      model:
        {hidden_size: 2048, intermediate_size: 8192, num_layers: 16, num_attention_heads: 32, num_key_value_heads: 8}
      sequence_length: 4096
      global_batch_size: 512
      num_steps: 1000
      optimizer: {learning_rate: 3e-4}
      schedule: {kind: cosine, num_warmup_steps: 10}
"""
MACHINES = "num_nodes: {nodes}, cpus_per_node: 64, memory_gib_per_node: 1024, accelerators_per_node: 8"
CLUSTER = "pools: {{default: {{accelerator: H100, machines: {{" + MACHINES + ", price_per_node_hour: 20}}}}}}"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a recipe, its source, and a cluster file with two nodes of 8 GPUs."""
    (tmp_path / "words.jsonl").write_text('{"text": "some words"}\n')
    (tmp_path / "toy.yaml").write_text(RECIPE)
    (tmp_path / "gpus.yaml").write_text(CLUSTER.format(nodes=2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(cluster: str | None, *overrides: str) -> tuple[bool, str]:
    out = StringIO()
    console = Console(file=out, width=300, soft_wrap=True, highlight=False)
    fits = show_plan(read_recipe(Path("toy.yaml"), overrides), cluster, console, as_json=False)
    return fits, out.getvalue()


def as_json(capsys, cluster: str | None, *overrides: str) -> dict:
    show_plan(read_recipe(Path("toy.yaml"), overrides), cluster, Console(), as_json=True)
    return json.loads(capsys.readouterr().out)


def estimated(capsys, cluster: str, *overrides: str) -> dict:
    return as_json(capsys, cluster, *overrides)["steps"][-1]["estimate"]


def test_without_a_cluster_only_the_steps_are_shown(place):
    fits, text = shown(None)
    assert fits
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["make", "corpus"],
        ["make", "tokenizer"],
        ["make", "tokens"],
        ["make", "model"],
        ["4", "to"],
    ]


def test_a_training_is_laid_out_on_the_described_machines(place):
    fits, text = shown("gpus.yaml")
    assert fits
    assert "2 nodes with 64 cores and 8 GPUs" in text
    assert "2,097,152,000: 1,000 steps of 512 x 4,096" in text
    assert "1,104,218,112 parameters" in text  # Llama 3.2's 1B with 32,000 pieces and an output layer of its own
    assert "16 ranks on cuda: ZeRO 1, 4 sequences a pass, 8 passes a step" in text
    assert text.endswith("fits on cluster gpus.yaml\n")


def test_time_and_cost_follow_from_flops_and_price(place, capsys):
    found = estimated(capsys, "gpus.yaml")
    assert found["seconds"] == pytest.approx(found["num_tokens"] / found["speed"]["tokens_per_second"])
    assert found["speed"]["source"] == "assumed: 40% of the peak of NVIDIA H100 80GB HBM3"
    assert found["speed"]["tokens_per_second"] == pytest.approx(16 * 0.4 * 989e12 / 7.85e9, rel=0.02)
    assert found["cost"] == pytest.approx(2 * 20 * found["seconds"] / 3600)
    assert found["currency"] == "USD"


def test_ranks_without_a_sequence_make_nothing_faster(place, capsys):
    speeds = [
        estimated(capsys, "gpus.yaml", f"steps.model.config.global_batch_size={size}")["speed"]["tokens_per_second"]
        for size in (8, 16, 17, 32)
    ]
    assert speeds[0] == pytest.approx(speeds[1] / 2)
    assert speeds[2] == pytest.approx(speeds[1] * 17 / 32)
    assert speeds[3] == speeds[1]


def test_the_parts_of_the_memory_add_up(place, capsys):
    memory = estimated(capsys, "gpus.yaml")["fit"]["chosen"]["memory"]
    total = memory.pop("total")
    assert memory.pop("offloaded") == 0
    assert total == sum(memory.values())


def test_the_start_and_the_memory_of_the_host_are_in_the_plan(place, capsys):
    chosen = estimated(capsys, "gpus.yaml")["fit"]["chosen"]
    assert chosen["start"] > chosen["memory"]["optimizer"]
    assert chosen["host"].keys() == {"process", "offloaded", "checkpoint", "start"}
    _, text = shown("gpus.yaml")
    assert "start          " in text and " a rank on cuda at most until the first step" in text
    assert "host memory    " in text and "pinned buffer of a checkpoint " in text


def test_a_key_of_deepspeed_that_the_chosen_stage_does_not_use_is_named(place):
    key = "deepspeed: {{zero_optimization: {{stage3_prefetch_bucket_size: 5}}}}, accelerator:"
    (place / "keys.yaml").write_text(CLUSTER.replace("accelerator:", key).format(nodes=2))
    _, text = shown("keys.yaml")
    assert "unused         deepspeed.zero_optimization.stage3_prefetch_bucket_size does nothing in ZeRO 1" in text
    assert "unused" not in shown("gpus.yaml")[1]


def test_what_does_not_fit_is_said_with_what_to_change(place):
    fits, text = shown("gpus.yaml", "steps.model.config.sequence_length=65536")
    assert not fits
    assert "does not fit   a rank needs" in text
    assert "set activation_checkpointing: true for the pool" in text
    assert text.endswith("does not fit on cluster gpus.yaml\n")


def test_a_pool_that_asks_for_more_ranks_than_there_are_does_not_fit(place):
    (place / "few.yaml").write_text(CLUSTER.format(nodes=2).replace("accelerator:", "num_ranks: 64, accelerator:"))
    fits, text = shown("few.yaml")
    assert not fits
    assert "the pool wants 64 ranks" in text


def test_checkpoints_are_counted_by_what_they_hold_and_what_stays(place, capsys):
    found = estimated(capsys, "gpus.yaml", "steps.model.config.checkpoint_every_steps=100")
    assert found["checkpoint_bytes"] == 12 * 1_104_218_112
    assert found["disk_bytes"] == 4 * found["checkpoint_bytes"]
    assert found["free_bytes"] is None  # the store is not on this machine
    frozen = estimated(capsys, "gpus.yaml", "steps.model.config.freeze=[model.embed_tokens.*]")
    assert frozen["checkpoint_bytes"] == 12 * (1_104_218_112 - 32_000 * 2048) + 2 * 32_000 * 2048


def test_a_full_disk_of_this_machine_does_not_fit(place, monkeypatch):
    (place / "store").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    fits, text = shown("inline", "steps.model.config.model.num_layers=1", "steps.model.config.sequence_length=16")
    assert not fits
    assert "and 0.00 GiB are free; keep fewer" in text


def test_a_full_disk_of_this_machine_decides_nothing_about_machines_elsewhere(place, monkeypatch):
    (place / "store").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**30}))
    fits, text = shown("gpus.yaml")
    assert fits
    assert "of 1.00 GiB free as this machine sees it" in text


def test_a_gpu_of_unknown_memory_is_not_said_to_fit(place, capsys):
    (place / "new.yaml").write_text(CLUSTER.format(nodes=2).replace("H100", "NOPE"))
    fits, text = shown("new.yaml")
    assert fits
    assert "memory of the GPU not known" in text
    assert "\nnot known whether it fits on cluster new.yaml: give `accelerator_memory_gib`" in text
    assert as_json(capsys, "new.yaml")["fits"] is None
    assert as_json(capsys, "gpus.yaml")["fits"] is True


def test_no_pass_has_more_sequences_than_the_batch(place):
    (place / "fixed.yaml").write_text(
        CLUSTER.format(nodes=2).replace("accelerator:", "micro_batch_size: 8, accelerator:")
    )
    assert "1 sequence a pass, 1 pass a step" in shown("fixed.yaml", "steps.model.config.global_batch_size=2")[1]


def test_a_cluster_without_machines_that_cannot_be_asked_says_what_to_write(place):
    (place / "slurm.yaml").write_text("launcher: {kind: slurm}")
    with pytest.raises(UserError, match=r"describe them under pools\.default\.machines"):
        shown("slurm.yaml")


def test_what_a_launcher_asks_for_describes_the_machines(place, capsys):
    asked = "num_nodes: 4, cpus_per_node: 32, gpus_per_node: 4, memory_gib_per_node: 256"
    (place / "slurm.yaml").write_text(f"launcher: {{kind: slurm, {asked}}}\npools: {{default: {{accelerator: A100}}}}")
    line = as_json(capsys, "slurm.yaml")["steps"][-1]
    assert line["machines"] == "4 nodes with 32 cores and 4 GPUs"
    assert line["estimate"]["placement"]["num_ranks"] == 16


def test_a_step_on_a_pool_that_is_not_there_is_refused(place):
    (place / "toy.yaml").write_text(RECIPE.replace("stage: train\n", "stage: train\n    pool: large\n"))
    with pytest.raises(ConfigError, match="does not have"):
        shown("gpus.yaml")


def test_this_machine_is_planned_for_where_the_file_names_no_other(place):
    fits, text = shown("inline", "steps.model.config.model.num_layers=1", "steps.model.config.sequence_length=16")
    assert fits
    assert "1 rank on" in text


def test_a_thousand_nodes_need_neither_torch_nor_ray(place):
    (place / "gpus.yaml").write_text(CLUSTER.format(nodes=1000))
    program = (
        "import sys; from pathlib import Path; from rich.console import Console; from pipeline.cli.show_plan import *\n"
        "from pipeline.recipe import read_recipe\n"
        "show_plan(read_recipe(Path('toy.yaml'), ()), 'gpus.yaml', Console(), as_json=False); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not {"torch", "ray", "transformers", "deepspeed"} & set(done.stdout.split())
    assert "8,000 ranks on cuda" in done.stdout
