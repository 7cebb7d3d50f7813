import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from configs.base import ConfigError, UserError
from configs.cluster import ClusterConfig
from configs.load import load
from pipeline.cli.show_plan import show_plan
from pipeline.layout_checks import check_layouts
from pipeline.prepare import prepare
from pipeline.recipe import read_recipe
from tests.pipeline.toys import record_of

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
MACHINES = "cpus_per_node: 64, memory_gib_per_node: 1024, accelerators_per_node: 8"
CLUSTER = (
    "pools: {{default: {{accelerator: H100, num_nodes: {nodes}, machines: {{"
    + MACHINES
    + ", price_per_node_hour: 20}}}}}}"
)


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
        ["epochs", f"{1000 * 512 * 4096 * 4 / 23:,.2f}"],
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
    speed = found["speed"]["tokens_per_second"]
    assert found["seconds"] == {
        "low": pytest.approx(found["num_tokens"] / speed["high"]),
        "high": pytest.approx(found["num_tokens"] / speed["low"]),
    }
    assert found["speed"]["source"] == "assumed: 25% to 50% of the peak of NVIDIA H100 80GB HBM3"
    # 6 x (16 x 60,817,408 + 32,000 x 2048), and the causal half of attention with its weights computed twice
    flops = 6 * (16 * 60_817_408 + 32_000 * 2048) + 16 * 14 * 2048 * 4097 / 2
    assert speed["high"] == pytest.approx(16 * 0.5 * 989e12 / flops, rel=0.05)  # less what each pass moves
    assert speed["high"] < 16 * 0.5 * 989e12 / flops
    assert found["cost"]["low"] == pytest.approx(2 * 20 * found["seconds"]["low"] / 3600)
    assert found["currency"] == "USD"


def test_ranks_without_a_sequence_make_nothing_faster(place, capsys):
    speeds = [
        estimated(capsys, "gpus.yaml", f"steps.model.config.global_batch_size={size}")["speed"]["tokens_per_second"]
        for size in (8, 16, 17, 32)
    ]
    assert speeds[0]["low"] == pytest.approx(speeds[1]["low"] / 2)
    assert speeds[2]["low"] == pytest.approx(speeds[3]["low"] * 17 / 32)
    assert speeds[3]["low"] > speeds[1]["low"]  # one exchange for twice the tokens


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
    assert found["disk_bytes"] == 5 * found["checkpoint_bytes"]
    assert found["free_bytes"] is None  # the store is not on this machine
    frozen = estimated(capsys, "gpus.yaml", "steps.model.config.freeze=[model.embed_tokens.*]")
    averaged = estimated(capsys, "gpus.yaml", "steps.model.config.ema={}")
    assert averaged["checkpoint_bytes"] == 16 * 1_104_218_112
    before, after = (one["fit"]["chosen"]["memory"]["optimizer"] for one in (found, averaged))
    assert (after - before) * averaged["placement"]["num_ranks"] == pytest.approx(4 * 1_104_218_112, rel=1e-6)
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


def test_a_step_by_its_parts_and_the_network_are_in_the_plan(place):
    _, text = shown("gpus.yaml")
    assert "a step         " in text and "exchange" in text and "recomputation" not in text
    assert "450 GB/s between the 8 GPUs of a node (its data sheet), 3,200 Gbit/s from node to node (assumed" in text
    (place / "again.yaml").write_text(
        CLUSTER.format(nodes=2).replace("accelerator:", "activation_checkpointing: true, accelerator:")
    )
    assert "recomputing activations" in shown("again.yaml")[1]
    assert "; attention by varlen" in text
    assert "recomputation" in shown("again.yaml")[1]


def test_recomputation_is_offered_with_its_time_where_it_lets_a_training_fit(place, capsys):
    setting = "steps.model.config.sequence_length=65536"
    _, text = shown("gpus.yaml", setting, "steps.model.config.global_batch_size=32")
    (line,) = (line for line in text.splitlines() if "runner-up" in line)
    assert "recomputing activations: it fits" in line and " h " in line
    (offered,) = estimated(capsys, "gpus.yaml", setting, "steps.model.config.global_batch_size=32")["fit"]["runners_up"]
    assert offered["choice"]["activation_checkpointing"] and offered["tokens_per_second"]["low"] > 0


def test_tokens_may_be_the_length_of_a_training(place, capsys):
    by_tokens = ("steps.model.config.num_steps=null", "steps.model.config.num_tokens=2097152000")
    _, text = shown("gpus.yaml", *by_tokens)
    assert "2,097,152,000: 1,000 steps of 512 x 4,096" in text
    assert estimated(capsys, "gpus.yaml", *by_tokens)["num_tokens"] == 2_097_152_000


def test_the_steps_of_a_batch_ramp_are_named_by_their_sizes(place):
    ramp = "steps.model.config.batch_ramp={start: 64, increment: 64, steps_per_increment: 100}"
    _, text = shown("gpus.yaml", ramp)
    assert re.search(r": 1,000 steps of 64 to 512 x 4,096", text)


def test_cleaning_tokenising_and_the_whole_are_in_the_plan(place, capsys):
    (place / "words.jsonl").write_text('{"text": "some words"}\n' * 10_000)
    steps = as_json(capsys, "gpus.yaml")
    times = {step["name"]: step["time"] for step in steps["steps"]}
    assert times["corpus"]["seconds"]["low"] > 0 and "MB of text; assumed: 29 MB/s a core" in times["corpus"]["source"]
    assert times["tokens"]["seconds"]["low"] > 0
    assert times["model"] is None and times["tokenizer"] is None
    whole, found = steps["whole"], steps["steps"][-1]["estimate"]
    parts = [times["corpus"]["seconds"], times["tokens"]["seconds"], found["seconds"]]
    assert whole["seconds"]["high"] == pytest.approx(sum(part["high"] for part in parts))
    assert whole["unknown"] == ["tokenizer"]
    assert "\nall but tokenizer, whose time is not known, " in shown("gpus.yaml")[1]


def test_a_time_limit_of_slurm_is_so_many_waits_in_its_queue(place):
    asked = "num_nodes: 2, cpus_per_node: 32, gpus_per_node: 8, memory_gib_per_node: 256, time_limit_minutes: 30"
    (place / "slurm.yaml").write_text(f"launcher: {{kind: slurm, {asked}}}\npools: {{default: {{accelerator: H100}}}}")
    _, text = shown("slurm.yaml", "steps.model.config.num_steps=10000")
    assert " jobs of 27 min 00 s of work (launcher.time_limit_minutes), and a wait in the queue for each" in text


def test_data_alone_is_planned_where_the_machines_are_not_known(place):
    (place / "slurm.yaml").write_text("launcher: {kind: slurm}")
    fits, text = shown("slurm.yaml", "outputs=[tokens]")
    assert fits
    assert "not known: the cluster file says nothing of the machines" in text


def test_what_a_tokenizer_does_not_decode_to_itself_is_in_the_plan(place, capsys):
    made = next(step for step in as_json(capsys, None)["steps"] if step["name"] == "tokenizer")
    assert made["round_trip"] == ""
    (place / "store" / made["artifact"]).mkdir(parents=True)
    certificate = {"num_texts": 30, "num_languages": 2, "model_sha256": "", "tokenizer_json_sha256": ""}
    manifest = {
        "vocab_size": 32000,
        "eos_id": 2,
        "pad_id": 3,
        "sample_bytes": {},
        "certificate": certificate | {"num_changed": 4, "changed_characters": ["U+2581", "U+3000"]},
    }
    record = record_of("train_tokenizer", manifest)
    (place / "store" / made["artifact"] / "record.json").write_text(record.model_dump_json())
    expected = "4 of 30 texts are not decoded to themselves: U+2581, U+3000"
    assert f"round trip     {expected}" in shown(None)[1]
    assert next(s for s in as_json(capsys, None)["steps"] if s["name"] == "tokenizer")["round_trip"] == expected


def test_passes_over_all_text_are_said_before_its_tokens_are_made(place, capsys):
    (place / "words.jsonl").write_text('{"text": "some words"}\n' * 1000)
    size = (place / "words.jsonl").stat().st_size
    asked = "steps.model.config.num_steps=10"
    assert as_json(capsys, None, asked)["steps"][-1]["expected_epochs"] == pytest.approx(10 * 512 * 4096 * 4 / size)
    assert "times all text at least, at 4 bytes a token" in shown(None, asked)[1]


def foreign(place: Path, **settings: str) -> None:
    """A recipe that imports a tokenizer of two pieces, for 40,000 rows."""
    files = {
        "tokenizer.json": {"model": {"type": "BPE", "vocab": {"a": 0, "</s>": 1}, "merges": []}, "added_tokens": []},
        "tokenizer_config.json": settings,
        "config.json": {"vocab_size": 40_000},
    }
    (place / "hub").mkdir()
    for name, content in files.items():
        (place / "hub" / name).write_text(json.dumps(content))
    step = "tokenizer: {stage: import_tokenizer, config: {path: hub}}"
    lines = [f"  {step}" if line.startswith("  tokenizer:") else line for line in RECIPE.splitlines()]
    (place / "toy.yaml").write_text("\n".join(lines))


def test_the_rows_of_an_imported_tokenizer_are_counted(place, capsys):
    before = estimated(capsys, "gpus.yaml")["model"]["num_parameters"]
    foreign(place, eos_token="</s>")
    assert estimated(capsys, "gpus.yaml")["model"]["num_parameters"] == before + 2 * 8000 * 2048


def test_a_tokenizer_that_says_not_how_a_text_ends_is_refused_with_its_line(place):
    foreign(place)
    with pytest.raises(ConfigError, match=r"toy\.yaml:\d+: hub/tokenizer\.json: no file of the tokenizer says which"):
        shown(None)


def test_a_pool_that_wants_gpus_which_are_not_there_does_not_fit_whatever_the_step(place, concord):
    (place / "gpus.yaml").write_text("executor: inline\npools: {default: {device: gpu}}\n")
    code, out, _ = concord("plan", "toy.yaml", "--cluster", "gpus.yaml")
    assert code == 3 and "the pool wants GPUs, and the driver finds none" in out
    assert "does not fit on cluster gpus.yaml" in out


def test_a_pool_that_nothing_uses_is_named(place, capsys):
    assert "is used by no step" not in shown("gpus.yaml")[1]
    cluster = (place / "gpus.yaml").read_text()
    (place / "gpus.yaml").write_text(cluster.removesuffix("}") + ", other: {}}")
    line = "pool 'other' is used by no step that is to be made"
    assert line in shown("gpus.yaml")[1].splitlines()
    assert as_json(capsys, "gpus.yaml")["unused"] == [line]
    assert as_json(capsys, None)["unused"] == []


MEMBERS = (
    "pools: {default: {members: ["
    + ", ".join(f"{{accelerator: {kind}, num_nodes: 2, machines: {{{MACHINES}}}}}" for kind in ("H100", "V100"))
    + "], activation_checkpointing: false}}"
)


def test_a_submission_is_told_of_machines_that_would_be_idle(place):
    (place / "mixed.yaml").write_text(MEMBERS)
    ready = prepare(read_recipe(Path("toy.yaml"), ()))
    (said,) = check_layouts(ready, load(Path("mixed.yaml"), ClusterConfig).config)
    assert said.startswith("step 'model' on pool 'default': V100: the step takes ")
    assert said.endswith(" without; 2 nodes of the pool would be idle")


def test_unlike_devices_are_planned_for_by_kind(place, capsys):
    (place / "mixed.yaml").write_text(MEMBERS)
    fits, text = shown("mixed.yaml")
    assert fits and "  machines       4 nodes with 64 cores and 8 GPUs" in text
    assert "  member         H100: 16 ranks, at most 7 sequences a pass; " in text
    assert (
        "  left out       V100: the step takes " in text and "  allocation     H100: 16 ranks 32 sequences each" in text
    )
    found = estimated(capsys, "mixed.yaml")["members"]
    assert [one["kind"] for one in found["members"]] == ["H100", "V100"]
    assert found["members"][0]["shares"][0]["num_ranks"] == 16 and found["members"][1]["shares"] == []
    assert found["members"][1]["left_out"] and 0 < found["eta_of_all"] < found["eta"] <= 1
    assert found["runner_up"]["step_seconds"] > found["step_seconds"]


def test_a_pool_of_one_kind_has_nothing_of_members(place, capsys):
    assert "members" not in estimated(capsys, "gpus.yaml")
    assert "allocation" not in shown("gpus.yaml")[1]
