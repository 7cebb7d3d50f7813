"""The larger recipes that ship are planned on text that lies where they look for it, and cleaned."""

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.data.stages import CleanConfig
from configs.load import shipped
from pipeline.recipe import read_recipe

Concord = Callable[..., tuple[int, str, str]]
WORDS = ["sea", "river", "star", "field", "lamp", "mill", "stone", "cloud", "night", "road", "bread", "glass", "the"]
CLUSTER = """
executor: ray
pools:
  default:
    accelerator: H100
    num_nodes: 8
    accelerator_memory_gib: 79.2
    machines: {cpus_per_node: 96, memory_gib_per_node: 1024, accelerators_per_node: 8}
"""


def prose(number: int) -> str:
    chosen = random.Random(number)
    return ". ".join(" ".join(chosen.choices(WORDS, k=9)) for _ in range(9)) + f", {number}."


def write(path: str, data: str | bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data.encode() if isinstance(data, str) else data)


def lines(numbers: range, **fields: str) -> str:
    return "".join(json.dumps({"text": prose(i), **fields}) + "\n" for i in numbers)


def table(path: str, rows: list[dict[str, object]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_what_the_multilingual_recipe_shows_for_files_of_ones_own_loads(tmp_path: Path) -> None:
    text = shipped("recipes", "multilingual").read_text(encoding="utf-8")
    assert text.count("#+ ") == 5
    (tmp_path / "own.yaml").write_text(text.replace("#+ ", ""), encoding="utf-8")
    clean = read_recipe(tmp_path / "own.yaml", ()).config.steps["corpus"].config
    assert isinstance(clean, CleanConfig) and clean.filters is not None
    assert clean.filters.file == "thresholds.yaml"
    assert [score.name for score in clean.scores] == ["quality", "toxicity"]
    assert [one.name for one in clean.blocklists] == ["unsafe"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with some text where the recipes look for it."""
    monkeypatch.chdir(tmp_path)
    code = [f"def f{i}(x):\n    return x + {i}  # " + prose(9000 + i) for i in range(20)]
    write("data/code/a.py", code[0])
    table("data/code/0.parquet", [{"content": one} for one in code])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        body = rf"\documentclass{{article}}\begin{{document}}{prose(1)} $x_1 = 2$\end{{document}}".encode()
        info = tarfile.TarInfo("paper.tex")
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))
    write("data/papers/1.tar.gz", archive.getvalue())
    web = [{"text": prose(i), "language": "eng_Latn", "url": f"u{i}", "language_score": 0.9} for i in range(200)]
    table("data/fineweb-2/eng_Latn/0.parquet", web)
    write("data/pes2o/0.json.gz", lines(range(1000, 1050)))
    write("data/proof-pile-2/0.jsonl.zst", lines(range(2000, 2050)))
    write("data/benchmarks/quiz.jsonl", lines(range(7, 8), language="en"))
    write("cluster.yaml", CLUSTER)
    return tmp_path


@pytest.mark.parametrize("recipe", ["science", "web-scale", "multilingual"])
def test_a_recipe_fits_on_64_gpus(place: Path, concord: Concord, recipe: str) -> None:
    code, out, err = concord("plan", recipe, "--cluster", "cluster.yaml", "--json")
    assert code == 0, err
    found = next(step["estimate"] for step in json.loads(out)["steps"] if step["name"] == "model")
    assert found["fit"]["chosen"]["fits"]


def test_the_recipe_of_the_web_cleans_and_looks_for_test_sets(place: Path, concord: Concord) -> None:
    chosen = ("--cluster", "inline", "--set", "outputs=[unique]", "--set", "steps.corpus.config.filters.learn=null")
    code, out, err = concord("run", "web-scale", *chosen, "--set", "steps.corpus.config.held_out={share: 0.05}")
    assert code == 0, err
    assert "1 with items of test sets" in out
