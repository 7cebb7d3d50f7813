import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store.artifact import RECORD

ROOT = Path(__file__).parents[3]
RECIPE = """\
name: toy
store: store
steps:
  corpus:
    stage: clean
    config:
      sources:
        - {name: words, kind: json_lines, paths: [words.jsonl], language: en}
      held_out: {share: 0.1}
"""
TOKENS = """\
  tokens:
    stage: tokenize
    inputs: {corpus: corpus, tokenizer: corpus}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory to run commands in, with a recipe and its source."""
    write_source(tmp_path, 30)
    (tmp_path / "toy.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_source(directory: Path, num_documents: int) -> None:
    texts = [{"text": f"document number {i} says something of its own"} for i in range(num_documents)]
    (directory / "words.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))


def test_help_names_every_command(concord):
    code, out, _ = concord("--help")
    assert code == 0
    assert all(command in out for command in ("run", "plan", "status", "lineage", "schema"))


def test_a_plan_is_shown_and_nothing_is_made(place, concord):
    code, out, err = concord("plan", "toy.yaml")
    assert (code, err) == (0, "")
    first, last = out.splitlines()
    assert first.split()[:2] == ["make", "corpus"]
    assert last == f"1 to make, 0 to reuse, in {place / 'store'}"
    assert not (place / "store").exists()


@pytest.mark.parametrize("kind", ["recipe", "cluster"])
def test_a_schema_is_json_and_refuses_unknown_keys(concord, kind):
    code, out, _ = concord("schema", kind)
    schema = json.loads(out)
    assert code == 0
    assert schema["additionalProperties"] is False
    assert ("steps" if kind == "recipe" else "pools") in schema["properties"]


def test_an_unknown_schema_is_refused(concord):
    code, out, err = concord("schema", "recipes")
    assert (code, out) == (2, "")
    assert err.startswith("concord: there is no schema of 'recipes'")


def test_a_run_makes_and_a_second_one_reuses(place, concord):
    assert "not begun" in concord("status", "toy.yaml")[1]
    code, out, _ = concord("run", "toy.yaml", "--cluster", "inline")
    assert code == 0
    assert "30 documents in 1 languages: 27 kept, 3 held out" in out
    assert "reused" not in out
    (record,) = place.glob(f"store/clean-*/{RECORD}")
    assert json.loads(record.read_text())["placement"]["num_ranks"] == 1
    assert out.splitlines()[-1] == f"corpus  store/{record.parent.name}"
    before = record.stat().st_mtime_ns
    code, out, _ = concord("run", "toy.yaml", "--cluster", "inline")
    assert code == 0
    assert "reused" in out
    assert record.stat().st_mtime_ns == before
    assert concord("plan", "toy.yaml")[1].startswith("reuse ")
    assert "done: 30 documents" in concord("status", "toy.yaml")[1]
    code, out, _ = concord("lineage", str(record.parent))
    assert code == 0
    assert "words.jsonl" in out


def test_a_changed_source_is_another_corpus(place, concord):
    concord("run", "toy.yaml", "--cluster", "inline")
    write_source(place, 31)
    assert concord("plan", "toy.yaml")[1].startswith("make ")


@pytest.mark.parametrize(
    ("edit", "arguments", "complaint"),
    [
        (("held_out", "held_uot"), (), "toy.yaml:9: unknown key 'held_uot' in steps.corpus.config; did you mean"),
        (("stage: clean", "stage: claen"), (), "toy.yaml:5: steps.corpus.stage is 'claen'; did you mean 'clean'?"),
        (("[words.jsonl]", "[wrods.jsonl]"), (), "toy.yaml:8: source 'words': nothing matches 'wrods.jsonl'"),
        (
            (RECIPE, RECIPE + TOKENS),
            (),
            "toy.yaml:12: step 'tokens': 'tokenizer' wants a TrainedTokenizer, but 'corpus'",
        ),
        (
            (),
            ("--set", "outputs=[corpse]"),
            "--set outputs=[corpse]: no step is named 'corpse'; did you mean 'corpus'?",
        ),
        ((), ("--set", "steps.corpus.pool=big"), "--set steps.corpus.pool=big: step 'corpus' wants pool 'big', which"),
        ((), ("--cluster", "lokal"), "no cluster is named 'lokal'; there are: "),
        ((), ("--set", "name"), "--set name: must look like key.key=value"),
    ],
    ids=["typo", "stage", "missing source", "miswired", "output", "pool", "cluster", "bad --set"],
)
def test_a_mistake_gives_one_line_and_exit_code_2_and_makes_nothing(place, concord, edit, arguments, complaint):
    if edit:
        (place / "toy.yaml").write_text(RECIPE.replace(*edit))
    cluster = () if "--cluster" in arguments else ("--cluster", "inline")
    code, out, err = concord("run", "toy.yaml", *cluster, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"concord: {complaint}")
    assert err.count("\n") == 1
    assert not (place / "store").exists()


def test_every_mistake_of_a_recipe_is_a_line_of_its_own(place, concord):
    (place / "toy.yaml").write_text(RECIPE.replace("name: toy", "nam: toy").replace("clean", "claen"))
    code, _, err = concord("plan", "toy.yaml")
    assert code == 2
    assert [line.removeprefix("concord: ").split(": ")[0] for line in err.splitlines()] == [
        "toy.yaml:1",
        "toy.yaml:5",
        "toy.yaml:1",
    ]


def test_a_missing_source_is_found_before_any_other_step_is_made(place, concord):
    more = "  late:\n    stage: clean\n    config:\n      sources: [{name: x, kind: parquet, paths: [x.parquet]}]\n"
    (place / "toy.yaml").write_text(RECIPE.replace("[words.jsonl]", "[w.jsonl]") + more)
    code, _, err = concord("run", "toy.yaml", "--cluster", "inline")
    assert code == 2
    assert [word in line for word, line in zip(("'w.jsonl'", "'x.parquet'"), err.splitlines(), strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("below", ["words.jsonl", "words.jsonl/store"])
@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_a_store_that_cannot_be_is_one_sentence_or_just_empty(place, concord, command, below):
    cluster = ("--cluster", "inline") if command == "run" else ()
    code, out, err = concord(command, "toy.yaml", "--set", f"store={below}", *cluster)
    if command == "run":
        assert (code, out) == (1, "")
        assert err.startswith(f"concord: the store {place / below} cannot be written (")
        assert err.count("\n") == 1
    else:
        assert (code, err) == (0, "")


def test_the_brackets_in_a_directory_name_are_printed(place, concord):
    assert concord("plan", "toy.yaml", "--set", "store='a [bold] store'")[1].endswith(f"{place}/a [bold] store\n")


def test_lineage_of_something_else_is_refused(place, concord):
    code, _, err = concord("lineage", str(place))
    assert code == 1
    assert "holds no run, checkpoint or artifact, nor is it in one" in err


def test_a_directory_of_the_same_name_is_not_taken_for_a_recipe_or_an_artifact(place, concord):
    (place / "mine").mkdir()
    for command in ("status", "lineage"):
        code, _, err = concord(command, "mine")
        assert code == 1
        assert "has no run and no artifact 'mine'" in err


def test_lineage_of_an_artifact_is_shown_by_its_bare_name(place, concord, monkeypatch):
    concord("run", "toy.yaml", "--cluster", "inline")
    monkeypatch.chdir(place / "store")
    (artifact,) = (place / "store").glob("clean-*")
    assert "step corpus" in concord("lineage", artifact.name)[1]


@pytest.mark.parametrize("command", ["ls", "status mine", "lineage mine", "logs mine", "stop mine"])
def test_a_store_that_is_a_file_is_a_sentence(place, concord, command):
    code, out, err = concord(*command.split(), "--store", "words.jsonl")
    assert (code, out) == (1, "")
    assert "a file stands where a directory should be" in err


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ("soon", "--profile soon: give the optimizer steps to record, counted from 1, as 10 or 10-12"),
        ("0", "--profile 0: give the optimizer steps to record, counted from 1, as 10 or 10-12"),
        ("12-10", "--profile 12-10: step 10 comes before step 12; give the first one first"),
        ("1-21", "--profile 1-21: a profile has at most 20 steps, for its size; give fewer"),
        ("3", "--profile 3: no training of this recipe has 3 steps; give earlier ones"),
    ],
)
def test_steps_that_cannot_be_profiled_are_one_sentence(place, concord, steps, complaint):
    assert concord("run", "toy.yaml", "--cluster", "inline", "--profile", steps) == (1, "", f"concord: {complaint}\n")
    assert not list(place.glob("store/clean-*"))


def test_the_installed_command_shows_no_traceback(place):
    program = "from pipeline.cli.app import main; main()"
    command = [sys.executable, "-c", program, "plan", "missing.yaml"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "concord: missing.yaml: no such file; give the path of a YAML file, or a shipped name\n"


def test_a_runs_processes_have_the_variables_of_the_cluster_file(place, concord, monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "before")
    (place / "here.yaml").write_text("executor: inline\nenvironment: {NCCL_SOCKET_IFNAME: ib7}\n")
    assert concord("run", "toy.yaml", "--cluster", "here.yaml")[0] == 0
    assert os.environ["NCCL_SOCKET_IFNAME"] == "ib7"
