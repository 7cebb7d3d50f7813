"""`concord eval`: scores on demand of what a recipe made, and what is said of two models, of signal, and of suites."""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.load import dump_yaml
from pipeline.cli.app import main

Concord = Callable[..., tuple[int, str, str]]
RECIPE = """\
name: tiny
steps:
  corpus:
    stage: clean
    config:
      sources: [{name: words, kind: plain_text, paths: ["texts/*.txt"], language: en}]
      held_out: {share: 0.2}
  tokenizer: {stage: train_tokenizer, inputs: {corpus: corpus}, config: {vocab_size: 300}}
  tokens: {stage: tokenize, inputs: {corpus: corpus, tokenizer: tokenizer}}
  model:
    stage: train
    inputs: {tokens: tokens, tokenizer: tokenizer}
    config:
      model: {hidden_size: 16, intermediate_size: 24, num_layers: 1, num_attention_heads: 2}
      sequence_length: 32
      global_batch_size: 4
      num_steps: 12
      checkpoint_every_steps: 2
      precision: fp32
      optimizer: {learning_rate: 1e-2}
      schedule: {kind: cosine, num_warmup_steps: 1}
  scores:
    stage: evaluate
    inputs: {model: model, tokenizer: tokenizer, corpus: corpus}
    config: {checkpoints: every, tasks: ["ask.py:first_letters"], parallel: sentences}
  export: {stage: export, inputs: {model: model, tokenizer: tokenizer}, config: {dtype: float32}}
  page: {stage: report, inputs: {model: model, scores: scores}}
"""
CLUSTER = "executor: inline\npools: {default: {retention: {newest: 5}}}\n"
ASK = """\
def first_letters(model):
    for letter in "abcdefgh":
        found, other = model.loglikelihood([("the word ", letter), ("the word ", "qq")])
        yield {"question": letter, "value": float(found.nats < other.nats), "num_choices": 2}

def second(model):
    yield {"question": "one", "value": float(len(model.generate(["ba lo"], max_tokens=4)[0]) > 0)}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store in which the recipe is made."""
    root = tmp_path_factory.mktemp("evaluations")
    draws, syllables = random.Random(0), ["ba", "lo", "mi", "ra", "tu", "se", "ko", "ne"]
    (root / "texts").mkdir()
    for number in range(40):
        words = ["".join(draws.choices(syllables, k=draws.randint(1, 3))) for _ in range(60)]
        (root / "texts" / f"{number}.txt").write_text(f"{' '.join(words)}.")
    (root / "sentences").mkdir()
    for name in ("eng_Latn.devtest", "swh_Latn.devtest", "README"):
        (root / "sentences" / name).write_text("ba lo mi\nra tu se\nko ne ba\n")
    for name, text in (("tiny.yaml", RECIPE), ("cluster.yaml", CLUSTER), ("ask.py", ASK)):
        (root / name).write_text(text)
    before, arguments = Path.cwd(), sys.argv
    os.chdir(root)
    sys.argv = ["concord", "run", "tiny.yaml", "--cluster", "cluster.yaml"]
    try:
        with pytest.raises(SystemExit) as exit_:
            main()
    finally:
        os.chdir(before)
        sys.argv = arguments
    assert not exit_.value.code
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store and the files, which is the working directory."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def artifact(place: Path, stage: str) -> str:
    (found,) = (place / "store").glob(f"{stage}-*")
    return found.name


def scores_of(place: Path, stage: str = "evaluate") -> dict[str, object]:
    record = json.loads((place / "store" / artifact(place, stage) / "record.json").read_text())
    manifest: dict[str, object] = record["manifest"]
    return manifest


def test_a_recipe_has_every_checkpoint_the_deleted_too_parallel_sentences_and_generations(place: Path) -> None:
    scores = scores_of(place)
    curve = {one["step"]: one for one in scores["curve"]}  # type: ignore[attr-defined]
    assert curve.keys() == {2, 4, 6, 8, 10, 12}
    assert curve[2]["failure"] == "retention deleted it before its turn"
    assert not curve[12]["failure"] and curve[12]["tasks"].keys() == {"first_letters"}
    assert scores["bits_per_sentence"].keys() == {"en"}  # type: ignore[attr-defined]
    folder = place / "store" / artifact(place, "evaluate") / "samples"
    rows = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    assert [(row["language"], row["contains_text"]) for row in rows] == [("en", True)]
    document = (place / "texts" / Path(str(rows[0]["document"])).name).with_suffix(".txt")
    assert rows[0]["text"] and rows[0]["prompt"]
    assert not document.exists() or document.read_text().startswith(rows[0]["prompt"])
    assert len((folder / "bits_per_sentence.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("kind", ["export", "training", "checkpoint", "directory", "recipe"])
def test_any_model_is_scored_on_demand_and_gets_the_recipes_scores(place: Path, concord: Concord, kind: str) -> None:
    train = artifact(place, "train")
    word = {
        "export": artifact(place, "export"),
        "training": train,
        "checkpoint": f"store/{train}/checkpoints/step-00000012",
        "directory": f"store/{artifact(place, 'export')}/model",
        "recipe": "tiny.yaml:model",
    }[kind]
    code, out, err = concord("eval", "model", word, "--task", "ask.py:first_letters", "--parallel", "sentences")
    assert code == 0 and out.splitlines()[0].startswith("first_letters  score "), err
    assert out.splitlines()[0].endswith(", chance 50.0%, 8 questions")
    found = json.loads((Path(out.splitlines()[-1]) / "scores.json").read_text())
    (row,) = scores_of(place)["tasks"]  # type: ignore[misc]
    assert found["tasks"][0]["value"] == row["value"]
    assert found["bits_per_sentence"].keys() == {"en", "sw"}
    wanted = scores_of(place)["bits_per_sentence"]["en"]["bits_per_sentence"]  # type: ignore[index]
    assert found["bits_per_sentence"]["en"]["bits_per_sentence"] == pytest.approx(wanted, rel=1e-5)


def test_what_was_answered_is_not_asked_again(place: Path, concord: Concord, monkeypatch: pytest.MonkeyPatch) -> None:
    word = f"store/{artifact(place, 'export')}/model"
    assert concord("eval", "model", word, "--task", "ask.py:first_letters", "--out", "mine")[0] == 0
    asked = []

    def note(paths: object, work: object) -> dict[str, str]:
        asked.append(work.task.name)  # type: ignore[attr-defined]
        return {"failure": "not now"}

    monkeypatch.setattr("eval.scoring.answer", note)
    both = ("--task", "ask.py:first_letters", "--task", "ask.py:second", "--out", "mine")
    code, out, _ = concord("eval", "model", word, *both, "--json")
    assert (code, asked) == (0, ["second"])
    assert [row["failure"] for row in json.loads(out)["tasks"]] == ["", "not now"]
    (place / "ask.py").write_text(ASK + "\n# another file is another task\n")
    concord("eval", "model", word, *both)
    assert asked == ["second", "first_letters", "second"]
    concord("eval", "model", word, *both)  # what failed is asked again
    assert asked[3:] == ["first_letters", "second"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere",), "has no run and no artifact 'nowhere'"),
        (("{model}",), "nothing is asked; give --suite, --task or --parallel"),
        (("{model}", "--task", "continuation"), "continuation is made of a corpus's held-out documents"),
        (("{model}", "--task", "ask.py:first_letters", "--questions", "0"), "questions_per_task"),
        (("{model}", "--suite", "early", "--data", "sentences"), "no task of these suites has its data in sentences"),
        (("{model}", "--suite", "nothing"), "nothing"),
        (("{model}", "--suite", "early", "--language", "qqq"), "suite early has no task in qqq; give another language"),
        (
            ("{model}", "--parallel", "sentences", "--language", "th"),
            "sentences has no sentences in th; it has some in",
        ),
        (("{model}", "--task", "ask.py:firstletters"), "has no function 'firstletters'; did you mean 'first_letters'?"),
        (("{model}", "--parallel", "nowhere"), "parallel: nowhere is no directory"),
        (("{corpus}", "--task", "ask.py:first_letters"), "is no model; name a Hugging Face directory"),
        (("{train}", "--task", "ask.py:first_letters", "--checkpoint", "2"), "has no checkpoint of step 2"),
        (("{train}", "--task", "ask.py:first_letters", "--checkpoint", "x"), "give last, best, or the number"),
        (("{model}", "--task", "ask.py:first_letters", "--out", "ask.py"), "give another directory with --out"),
        (("texts", "--task", "ask.py:first_letters"), "texts"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(
    place: Path, concord: Concord, arguments: tuple[str, ...], told: str
) -> None:
    words = {"model": f"store/{artifact(place, 'export')}/model", "train": artifact(place, "train")}
    words["corpus"] = artifact(place, "clean")
    code, _, err = concord("eval", "model", *(argument.format_map(words) for argument in arguments))
    assert code in (1, 2) and told in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_scores_of_another_model_are_not_written_over(place: Path, concord: Concord) -> None:
    word, train = f"store/{artifact(place, 'export')}/model", artifact(place, "train")
    asked = ("--task", "ask.py:first_letters", "--out", "mine")
    assert concord("eval", "model", word, *asked)[0] == 0
    code, _, err = concord("eval", "model", train, *asked)
    assert code and "mine has scores of another model" in err


def test_a_training_whose_tokenizer_is_gone_says_what_to_do(place: Path, concord: Concord) -> None:
    shutil.rmtree(place / "store" / artifact(place, "train_tokenizer"))
    code, _, err = concord("eval", "model", artifact(place, "train"), "--task", "ask.py:first_letters")
    assert code and "the tokenizer of what it was trained on is not in" in err and "export the model" in err


def test_two_models_are_compared_by_what_both_answered(place: Path, concord: Concord) -> None:
    train = artifact(place, "train")
    for step, out in ((4, "first"), (12, "second")):
        word = f"store/{train}/checkpoints/step-{step:08d}"
        assert concord("eval", "model", word, "--parallel", "sentences", "--out", out)[0] == 0
    code, out, _ = concord("eval", "compare", "first", "second", "--json")
    found = json.loads(out)
    assert code == 0 and {row["language"] for row in found["rows"]} == {"en", "sw"}
    assert {row["measure"] for row in found["rows"]} == {"bits_per_sentence"}
    assert all(row["difference"]["value"] < 0 and not row["higher_is_better"] for row in found["rows"])
    code, out, _ = concord("eval", "compare", "first", "second")
    assert code == 0 and "cannot tell (too few)" in out and "over 2 languages, the worst " in out


def test_a_directory_without_answers_is_told_as_such(place: Path, concord: Concord) -> None:
    code, _, err = concord("eval", "compare", "texts", "sentences")
    told = "texts has no answers (samples/*.jsonl); name the artifact of an `evaluate` step, or what"
    assert code == 1 and told in err and err.count("\n") == 1
    code, _, err = concord("eval", "compare", "nowhere", "sentences")
    assert code == 1 and "has no run and no artifact 'nowhere'" in err


def test_tasks_of_a_suite_whose_data_are_there_are_scored_in_a_language_too(place: Path, concord: Concord) -> None:
    """One task without data refused the whole command where a language was given, and none where none was."""
    settings = {"dataset_path": "local", "test_split": "test", "output_type": "multiple_choice"}
    settings |= {"doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}"}
    entry = {"kind": "multiple_choice", "licence": "CC0-1.0", "source": "made here", "language": "sw", "folder": "."}
    entry |= {"set": settings | {"metric_list": [{"metric": "acc"}]}}
    tasks = [entry | {"task": name, "files": {"test": name}} for name in ("quiz", "gone")]
    (place / "mine.yaml").write_text(dump_yaml({"description": "A quiz.", "tasks": tasks}))
    rows = [{"question": f"lo {number}", "choices": ["ba", "lo"], "label": number % 2} for number in range(8)]
    (place / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    word = f"store/{artifact(place, 'export')}/model"
    for more in ((), ("--language", "sw")):
        code, out, err = concord("eval", "model", word, "--suite", "mine.yaml", "--data", ".", *more)
        assert code == 0 and "not scored, since the data are not there: gone\n" in out, err
        assert out.startswith("quiz")


def test_what_a_function_prints_is_not_in_the_json(place: Path, concord: Concord) -> None:
    (place / "ask.py").write_text(ASK.replace("    yield", "    print('SPILL')\n    yield", 1))
    word = f"store/{artifact(place, 'export')}/model"
    code, out, err = concord("eval", "model", word, "--task", "ask.py:second", "--json")
    assert code == 0 and json.loads(out)["tasks"][0]["task"] == "second"
    (place / "ask.py").write_text(ASK.replace("    for letter", "    print('SPILL')\n    for letter"))
    code, out, err = concord("eval", "model", word, "--task", "ask.py:first_letters", "--json")
    assert code == 0 and json.loads(out)["tasks"] and "SPILL" in err


def test_what_two_models_are_not_compared_by_is_told(tmp_path: Path, concord: Concord) -> None:
    def write(name: str, task: str, value: float, language: str = "sw") -> None:
        rows = [{"question": f"q{i}", "value": value, "weight": 1.0, "language": language} for i in range(9)]
        path = tmp_path / name / f"samples/{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    for name in ("a", "b"):
        write(name, "chrf_x", float("nan"))
        write(name, "quiz", 1.0)
    for number in range(20):
        write("b", f"only_{number:02}", 1.0)
    places = [str(tmp_path / name) for name in ("a", "b")]
    code, out, _ = concord("eval", "compare", *places)
    assert code == 0 and "cannot tell (no difference at all)" in out and "worst" not in out
    assert "not compared: chrf_x sw (only the whole has a score)\n" in out
    assert "not compared: only_18 sw (only the second was asked)\nand 1 more\n" in out
    found = json.loads(concord("eval", "compare", *places, "--json")[1])
    assert len(found["uncompared"]) == 21 and found["rows"][0]["detectable"] is None
    assert found["uncompared"][0] == {"measure": "chrf_x", "language": "sw", "reason": "only the whole has a score"}


def test_curves_say_which_tasks_give_signal(place: Path, concord: Concord) -> None:
    code, out, _ = concord("eval", "screen", artifact(place, "evaluate"))
    assert code == 0 and out.splitlines()[1].startswith("first_letters")
    code, _, err = concord("eval", "screen", artifact(place, "train"))
    assert code and "is of stage train; name the artifact of an `evaluate` step" in err


def test_tasks_of_suites_are_listed(place: Path, concord: Concord) -> None:
    code, out, _ = concord("eval", "suites", "science")
    assert code == 0 and "arc_easy" in out and "CC-BY-SA-4.0" in out
    code, out, _ = concord("eval", "suites", "--json")
    assert code == 0 and {"early", "multilingual", "science", "safety"} == {row["suite"] for row in json.loads(out)}


def test_an_untrained_network_is_asked_too_and_tells_of_a_task_that_needs_no_knowledge(
    place: Path, concord: Concord
) -> None:
    choices = ["ba lo mi ra tu se ko ne", "ba", "ra tu se ko ne mi lo ba"]
    rows = [{"question": f"lo {number}", "choices": choices, "label": 1} for number in range(60)]
    (place / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"dataset_path": "local", "test_split": "test", "output_type": "multiple_choice"}
    settings |= {"doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}"}
    entry = {"task": "quiz", "folder": ".", "kind": "multiple_choice", "licence": "CC0-1.0", "source": "made here"}
    entry |= {"files": {"test": "quiz"}, "set": settings | {"metric_list": [{"metric": "acc"}]}}
    (place / "mine.yaml").write_text(dump_yaml({"description": "A quiz.", "tasks": [entry]}))
    for word in (f"store/{artifact(place, 'export')}/model", artifact(place, "train")):
        code, out, err = concord("eval", "model", word, "--suite", "mine.yaml", "--data", ".")
        assert code == 0 and "quiz: an untrained network does not score chance in it" in out, err
        directory = Path(out.splitlines()[-1])
        (row,) = json.loads((directory / "scores.json").read_text())["untrained"]
        assert row["value"] == 1.0 and len(list(directory.glob("parts/*/untrained/quiz-*.json"))) == 1
        own = (*directory.glob("parts/*/quiz-*.json"), *(place / "store/answers").glob("train-*/quiz-*.json"))
        assert [path for path in own if path.parent.name != "untrained"]  # the model's own answers are others


def test_a_second_command_adds_its_tasks_to_the_scores(place: Path, concord: Concord) -> None:
    word = f"store/{artifact(place, 'export')}/model"
    for name in ("first_letters", "second", "second"):
        assert concord("eval", "model", word, "--task", f"ask.py:{name}", "--out", "mine")[0] == 0
    found = json.loads((place / "mine/scores.json").read_text())
    assert sorted(row["task"] for row in found["tasks"]) == ["first_letters", "second"]


def test_a_damaged_checkpoint_is_one_sentence(place: Path, concord: Concord) -> None:
    path = place / "store" / artifact(place, "train") / "checkpoints/step-00000012"
    (path / "checkpoint.json").write_text("{")
    code, _, err = concord("eval", "model", str(path), "--task", "ask.py:first_letters")
    assert code and "step-00000012 is damaged" in err and len(err.strip().splitlines()) == 1
