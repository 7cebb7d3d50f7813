"""What `status`, `logs`, `seen` and `lineage` are asked about: each takes the same words."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.host.files import write_text
from cluster.rank_output import RANKS, output_file
from configs.base import UserError
from configs.cluster import ClusterConfig
from pipeline.cli.subject import ArtifactSubject, StepsSubject, find_artifact, find_run, find_subject
from pipeline.recipe import read_recipe
from pipeline.runs.attempt import make_attempt
from pipeline.runs.directory import RunDirectory, now, open_run
from pipeline.runs.logs import read_rank_output
from pipeline.runs.submit import submit_run
from pipeline.store.artifact import BUILD_COUNT_FILE
from tests.pipeline.runs import test_submit
from tests.pipeline.runs.test_submit import console, finish, submitted
from tests.pipeline.runs.toy_runs import toy_attempt, toy_directory, toy_start

ROOT = Path(__file__).parents[3]
Concord = Callable[..., tuple[int, str, str]]
place = test_submit.place


@pytest.fixture
def run(place: Path) -> RunDirectory:
    """A run that has made its corpus, in ./store."""
    directory, _ = submitted("mine")
    (start,) = directory.starts()
    make_attempt(directory, start, ClusterConfig(executor="inline"), console(), take_over=False)
    finish(directory)
    directory.log_path(1).parent.mkdir(parents=True, exist_ok=True)
    directory.log_path(1).write_text("what the driver said\n")
    return directory


@pytest.fixture
def corpus(run: RunDirectory) -> str:
    return run.starts()[0].artifacts["corpus"]


WORDS = [
    "toy.yaml:corpus",
    "{place}/toy.yaml:corpus",
    "mine:corpus",
    "{corpus}",
    "store/{corpus}",
    "store/{corpus}/",
    "{place}/store/{corpus}/record.json",
    "store/runs/mine:corpus",
]


@pytest.mark.parametrize("word", WORDS)
def test_each_command_takes_a_step_in_each_way(place: Path, corpus: str, concord: Concord, word: str) -> None:
    word = word.format(place=place, corpus=corpus)
    code, out, _ = concord("status", word)
    assert code == 0 and out.startswith("corpus  done: 30 documents") and corpus in out
    assert json.loads(concord("status", word, "--json")[1])["steps"]["corpus"]["artifact"] == corpus
    assert concord("lineage", word)[1].startswith(f"{corpus}\n")
    assert concord("logs", word)[1] == "what the driver said\n"
    code, _, err = concord("seen", word)
    assert code == 1 and f"{corpus} is neither a checkpoint" in err


@pytest.mark.parametrize("word", ["mine", "store/runs/mine", "{place}/store/runs/mine", None, "toy.yaml"])
def test_each_command_takes_a_run_and_without_one_the_last(
    place: Path, corpus: str, concord: Concord, word: str | None
) -> None:
    words = [word.format(place=place)] if word else []
    code, out, _ = concord("status", *words)
    assert code == 0 and "corpus  done: 30 documents" in out
    assert ("run mine" in out) == (word != "toy.yaml")
    assert concord("lineage", *words)[1].startswith(f"{corpus}\n")
    assert concord("logs", *words)[1] == "what the driver said\n"
    code, _, err = concord("seen", *words)
    assert code == 1 and "it has no steps of stage train; name one step, as NAME:STEP" in err


def test_the_last_run_is_the_one_started_last(place: Path, run: RunDirectory) -> None:
    submitted("zeta")
    submitted("alpha")
    assert find_run(find_subject(None, store="store")).id == "alpha"
    again = run.starts()[0].model_copy(update={"number": 2, "time": now() + timedelta(seconds=5)})
    assert run.add_start(again)
    assert find_run(find_subject(None, store="store")).id == "mine"
    (place / "store" / "runs" / "alpha" / "run.json").write_text("{")  # damaged: it does not hide the others
    assert find_run(find_subject(None, store="store")).id == "mine"


def test_the_run_of_a_recipe_makes_all_that_the_recipe_wants(place: Path, run: RunDirectory) -> None:
    assert find_run(find_subject("toy.yaml", store="store")).id == "mine"
    changed = find_subject("toy.yaml", store="store", overrides=["steps.corpus.config.min_characters=4"])
    with pytest.raises(
        UserError, match=r"no run that was submitted to the store .*/store makes what recipe toy\.yaml wants"
    ):
        find_run(changed)
    changed = find_subject("toy.yaml:corpus", store="store", overrides=["steps.corpus.config.min_characters=4"])
    with pytest.raises(UserError, match=r"makes step 'corpus' of recipe toy\.yaml;"):
        find_run(changed)


def test_a_run_goes_before_a_shipped_recipe_of_its_name(place: Path) -> None:
    found = find_subject("smoke:model", store="store")
    assert isinstance(found, StepsSubject) and found.run is None
    submitted("smoke")
    found = find_subject("smoke", store="store")
    assert isinstance(found, StepsSubject) and found.run is not None


def test_an_artifact_that_is_begun_is_found_without_a_run(place: Path, concord: Concord) -> None:
    directory = place / "store" / "train-0123456789ab"
    directory.mkdir(parents=True)
    (directory / BUILD_COUNT_FILE).write_text("1")
    assert concord("status", "train-0123456789ab")[1] == "train  begun and stopped  train-0123456789ab\n"
    code, _, err = concord("logs", "train-0123456789ab")
    assert code == 1 and "no run that was submitted to the store" in err and "makes train-0123456789ab" in err


def test_what_a_rank_printed_is_shown_by_its_number(
    place: Path, concord: Concord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "t" * 30)
    directory = place / "store" / "train-0123456789ab"
    directory.mkdir(parents=True)
    (directory / BUILD_COUNT_FILE).write_text("1")
    code, _, err = concord("logs", "train-0123456789ab", "--rank", "0")
    assert code == 1 and "train-0123456789ab has no output of ranks on this machine: none has started yet" in err
    for rank in range(3):
        write_text(output_file(directory / RANKS, rank), f"rank {rank} says {'t' * 30}\n")
    for word in ("train-0123456789ab", "store/train-0123456789ab"):
        assert concord("logs", word, "--rank", "1") == (0, "rank 1 says [redacted]\n", "")
    code, _, err = concord("logs", "train-0123456789ab", "--rank", "3")
    assert code == 1 and "has no output of rank 3; it has those of ranks 0 to 2" in err


def test_what_a_rank_prints_is_followed_until_the_training_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = output_file(tmp_path / RANKS, 0)
    steps = iter(("one\nha", "lf\n", "the end"))

    def more(seconds: float) -> None:
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as opened:
            opened.write(next(steps))

    monkeypatch.setattr("pipeline.runs.logs.time.sleep", more)
    is_made = iter((True, True, True, False))
    texts = read_rank_output(tmp_path, 0, follow=True, is_made=lambda: next(is_made), remote=None)
    assert [text for text in texts if text] == ["one\n", "half\n", "the end"]
    with pytest.raises(UserError, match="has no output of rank 9; it has those of ranks 0 to 0"):  # it has ended
        list(read_rank_output(tmp_path, 9, follow=True, is_made=lambda: False, remote=None))
    monkeypatch.setattr("pipeline.runs.logs.SECONDS_FOR_A_START", 0.0)
    with pytest.raises(UserError, match="has no output of rank 9"):  # the others have long begun
        list(read_rank_output(tmp_path, 9, follow=True, is_made=lambda: True, remote=None))


def test_what_is_only_in_a_store_behind_a_url_is_found(
    place: Path, concord: Concord, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = (place / "far").as_uri()
    loaded = read_recipe(Path("toy.yaml"), (f"store={url}",))
    submit_run(loaded, "here.yaml", console(), run_id="far", check_first=False, dry_run=False)
    run = open_run(url, "far")
    (start,) = run.starts()
    make_attempt(run, start, ClusterConfig.model_validate(start.cluster), console(), take_over=False)
    toy_attempt(run, outcome="finished", ended=now())
    corpus = start.artifacts["corpus"]
    shutil.rmtree(run.home)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    inside = f"{url}/{corpus}/record.json"
    named = ((f"{url}/{corpus}",), (inside,), (corpus, "--store", url))
    for words in (*named, (f"{url}/runs/far:corpus",), (f"{url}/runs/far",), ("--store", url)):
        assert "corpus  done: 30 documents" in concord("status", *words)[1]
        assert concord("lineage", *words)[1].startswith(f"{corpus}\n")
    for words in (*named, (f"{url}/runs/far:corpus",)):
        code, _, err = concord("seen", *words)
        assert code == 1 and f"the files of {corpus} are in the store {url} and not on this machine" in err


def test_what_stands_here_is_found_by_its_bare_name(
    place: Path, corpus: str, concord: Concord, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "toy.yaml").rename(place / "recipe.txt")
    assert "corpus  done" in concord("status", "recipe.txt:corpus")[1]
    monkeypatch.chdir(place / "store" / corpus)
    assert "corpus  done" in concord("status", "record.json")[1]
    assert "corpus  done" in concord("status", ".")[1]


def test_logs_of_a_run_that_this_version_cannot_read_are_shown(place: Path, concord: Concord) -> None:
    directory = toy_directory(place / "store", "old")  # its recipe has no steps, which no recipe may
    toy_start(directory)
    directory.log_path(1).parent.mkdir(parents=True, exist_ok=True)
    directory.log_path(1).write_text("what it said\n")
    assert concord("logs", "old") == (0, "what it said\n", "")
    assert concord("logs") == (0, "what it said\n", "")
    for command in ("status", "seen"):
        code, _, err = concord(command, "old")
        assert code == 1 and "the recipe of run old is not one that this version of Concord can read" in err


def test_a_run_may_be_called_as_a_file(place: Path) -> None:
    submitted("mine.yaml")
    assert find_run(find_subject("mine.yaml", store="store")).id == "mine.yaml"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nonsense", "the store store has no run and no artifact 'nonsense' (its runs are mine); give RECIPE:STEP"),
        ("nonsense:corpus", "has no run and no artifact 'nonsense:corpus'"),
        ("toy.yaml:corpse", "recipe toy.yaml has no step 'corpse' (it has: corpus); name one of these"),
        ("mine:corpse", "run mine has no step 'corpse' (it has: corpus); name one of these"),
        ("store/nothing", "store/nothing does not exist (seen from "),
        (
            "store",
            "has no run and no artifact 'store' (its runs are mine), and the path of this name is none and in none",
        ),
        ("./store", "./store holds no run, checkpoint or artifact, nor is it in one (seen from "),
        ("file:///nowhere/train-0123456789ab", "there is no run and no artifact at file:///nowhere/train-0123456789ab"),
        ("none.yaml", "none.yaml: no such file"),
        ("", "has no run and no artifact ''"),
        (":", "has no run and no artifact ':'"),
    ],
)
def test_what_is_not_there_is_one_sentence(run: RunDirectory, concord: Concord, word: str, says: str) -> None:
    for command in ("status", "logs", "seen", "lineage"):
        code, out, err = concord(command, word)
        assert code in (1, 2) and out == "" and err.count("\n") == 1
        assert says in err


def test_without_runs_and_without_a_word_there_is_one_sentence(place: Path, concord: Concord) -> None:
    for command in ("status", "logs", "seen", "lineage"):
        code, _, err = concord(command)
        assert code == 1 and err.startswith("concord: no run was submitted to the store store; name a recipe")


def test_set_without_a_recipe_is_refused_and_with_one_it_counts(run: RunDirectory, concord: Concord) -> None:
    assert "--set changes a recipe, and none is given" in concord("status", "mine", "--set", "store=x")[2]
    other = concord("status", "toy.yaml", "--set", "steps.corpus.config.min_characters=4")[1]
    assert other.startswith("corpus  not begun")


def test_several_steps_of_a_stage_are_named(place: Path) -> None:
    found = find_subject("smoke", store="store")
    assert find_artifact(found, stage="train").name.startswith("train-")
    with pytest.raises(
        UserError, match=r"recipe smoke: its steps are corpus\.sentences, .*; name one step, as NAME:STEP"
    ):
        find_artifact(found)


def test_a_checkpoint_is_found_by_its_path_wherever_it_lies(tmp_path: Path) -> None:
    checkpoint = tmp_path / "train-0123456789ab" / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text("{}")
    found = find_subject(str(checkpoint), store="store")
    assert isinstance(found, ArtifactSubject)
    assert (found.name, found.checkpoint) == ("train-0123456789ab", checkpoint)


def test_the_version_says_which_code_it_is(concord: Concord) -> None:
    code, out, _ = concord("--version")
    assert code == 0 and out.count("\n") == 1
    assert out.startswith("concord ") and f"Python {sys.version.split()[0]}" in out and ", code " in out


def completed(line: str, directory: Path, shell: str = "bash") -> list[str]:
    """Return what a shell that has installed our completion offers at the end of a command line."""
    words = line.split(" ")
    given = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
    }[shell]
    program = "import sys; sys.argv = ['concord']; from pipeline.cli.app import main; main()"
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "_CONCORD_COMPLETE": f"complete_{shell}", **given}
    done = subprocess.run([sys.executable, "-c", program], cwd=directory, env=env, capture_output=True, text=True)
    return done.stdout.split()


def test_a_shell_completes_commands_recipes_clusters_runs_and_artifacts(run: RunDirectory, corpus: str, place: Path):
    assert "status" in completed("concord st", place) and "submit" not in completed("concord st", place)
    assert completed("concord run to", place) == ["toy.yaml"]
    assert completed("concord plan smo", place) == ["smoke"]
    assert completed("concord run toy.yaml --cluster sl", place) == ["slurm"]
    assert completed("concord stop m", place) == ["mine"]
    assert set(completed("concord status ", place)) >= {"mine", corpus, "toy.yaml", "smoke", "store/"}
    assert completed(f"concord status --store {place}/store mi", Path("/")) == ["mine"]
    assert any("mine" in line for line in completed("concord logs mi", place, shell="zsh"))


def test_completion_is_offered_in_the_help(concord: Concord) -> None:
    assert "--install-completion" in concord("--help")[1]


def test_a_store_is_spelled_on_the_command_line_as_in_a_recipe(
    tmp_path: Path, concord: Concord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"no runs in {tmp_path}/x;" in concord("ls", "--store", "~/x")[1]
    code, _, err = concord("ls", "--store", "$FOO/x")
    assert code != 0 and "holds the variable $FOO" in err
