"""The recipe of a billion parameters that ships: it is planned for 8 GPUs, and made at a tiny size."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.load import SHIPPED

ROOT = Path(__file__).parents[2]
Concord = Callable[..., tuple[int, str, str]]
TRAIN = "steps.model.config"
TINY = {
    "steps.corpus.config.min_characters": 20,
    "steps.corpus.config.held_out": "{share: 0.1}",
    "steps.tokenizer.config": "{vocab_size: 330, sample_bytes: 100000}",
    f"{TRAIN}.model.hidden_size": 32,
    f"{TRAIN}.model.intermediate_size": 64,
    f"{TRAIN}.model.num_layers": 2,
    f"{TRAIN}.model.num_attention_heads": 4,
    f"{TRAIN}.model.num_key_value_heads": 1,
    f"{TRAIN}.model.overrides.head_dim": 8,
    f"{TRAIN}.sequence_length": 32,
    f"{TRAIN}.global_batch_size": 4,
    f"{TRAIN}.num_steps": 6,
    f"{TRAIN}.precision": "fp32",
    f"{TRAIN}.schedule": "{kind: wsd, num_warmup_steps: 1, num_decay_steps: 2}",
    f"{TRAIN}.mixture.phases": "[{source_weights: {web: 4, science: 1}, max_epochs: 4, budget_tokens: 512}, "
    "{source_weights: {web: 1, science: 1}, max_epochs: 4, budget_tokens: 256}]",
    "steps.scores.config": "{documents_per_stream: 2, tasks: []}",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with some text where the recipe looks for it."""
    numbers = random.Random(0)
    words = ["sea", "river", "star", "field", "lamp", "mill", "stone", "cloud", "night", "road", "bread", "glass"]
    records = [
        {"text": " ".join(numbers.choices(words, k=30)) + f" {i}.", "language": ("en", "sw")[i % 2]} for i in range(400)
    ]
    (tmp_path / "data" / "web" / "a").mkdir(parents=True)
    lines = "".join(json.dumps(record) + "\n" for record in records[:300]).encode()
    (tmp_path / "data" / "web" / "a" / "0.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "data" / "science").mkdir()
    pq.write_table(pa.Table.from_pylist(records[300:]), tmp_path / "data" / "science" / "0.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("accelerator", ["H100", "A100"])
def test_a_billion_parameters_fit_on_8_gpus(place: Path, concord: Concord, accelerator: str) -> None:
    shipped = (SHIPPED / "clusters" / "eight-gpus.yaml").read_text()
    (place / "gpus.yaml").write_text(shipped.replace("accelerator: H100", f"accelerator: {accelerator}"))
    code, out, err = concord("plan", "one-billion", "--cluster", "gpus.yaml", "--json")
    assert code == 0, err
    found = next(step["estimate"] for step in json.loads(out)["steps"] if step["name"] == "model")
    assert found["model"]["num_parameters"] == 999_373_312
    assert found["num_tokens"] == 48_000 * 512 * 4096 == 80_530_636_800 + 20_132_659_200
    assert found["placement"]["num_ranks"] == 8
    assert found["fit"]["chosen"]["fits"]


def test_without_text_it_says_what_to_set(place: Path, concord: Concord) -> None:
    (place / "data" / "web" / "a" / "0.jsonl.zst").unlink()
    code, _, err = concord("plan", "one-billion")
    recipe = SHIPPED / "recipes" / "one-billion.yaml"
    line = next(n for n, text in enumerate(recipe.read_text().splitlines(), 1) if "name: web" in text)
    assert code == 2
    assert err.startswith(f"concord: {recipe}:{line}: source 'web': nothing matches 'data/web/**/*.jsonl.zst'")
    assert "`paths`" in err


@pytest.mark.long
def test_it_is_made_at_a_tiny_size(place: Path) -> None:
    chosen = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "pipeline.cli", "run", "one-billion", "--cluster", "inline", *chosen]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "parameters, 6 steps, " in done.stdout
    (model,) = (place / "store").glob("export-*/model")
    assert json.loads((model / "config.json").read_text())["rope_parameters"]["rope_theta"] == 500000
    assert list((place / "store").glob("report-*/report.html"))
