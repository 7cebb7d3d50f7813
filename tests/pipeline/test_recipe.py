"""What a recipe alone decides is said when it is read, what data decide after the step that knows it."""

import json
import re
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from configs.base import ConfigError
from configs.load import shipped
from pipeline.recipe import read_recipe

ROOT = Path(__file__).parents[2]
Concord = Callable[..., tuple[int, str, str]]
RECIPE = """\
name: toy
steps:
  corpus:
    stage: clean
    config:
      sources:
        - {name: words, kind: json_lines, paths: [words.jsonl], language: en}
        - {name: stacks, kind: json_lines, paths: [stacks.jsonl], language: fr}
      held_out: {share: 0.1}
  unique: {stage: deduplicate, inputs: {corpus: corpus}}
  tokenizer: {stage: train_tokenizer, inputs: {corpus: corpus.words}, config: {vocab_size: 320}}
  other: {stage: train_tokenizer, inputs: {corpus: corpus.words}, config: {vocab_size: 500}}
  tokens: {stage: tokenize, inputs: {corpus: corpus, mask: unique, tokenizer: tokenizer}}
  model:
    stage: train
    inputs: {tokens: tokens, tokenizer: tokenizer}
    config:
      model:
        hidden_size: 192
        intermediate_size: 512
        num_layers: 2
        num_attention_heads: 6
      sequence_length: 64
      global_batch_size: 2
      num_steps: 2
      precision: fp32
      optimizer: {learning_rate: 3e-4}
      schedule: {kind: cosine, num_warmup_steps: 1}
  scores:
    stage: evaluate
    inputs: {model: model, tokenizer: tokenizer, corpus: corpus, mask: unique}
    config: {tasks: []}
outputs: [scores]
"""
CLEANED = ["corpus.words", "corpus.stacks"]
MODEL = "steps.model.config.model"
WEIGHTS = "steps.model.config.mixture.source_weights"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a recipe and its sources."""
    for name in ("words", "stacks"):
        texts = [{"text": f"the {name} of line {i} are {i * i} and {i**3}, as it says"} for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    (tmp_path / "toy.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_recipe(Path("toy.yaml"), overrides)
    return str(caught.value)


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(RECIPE.splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_attention_heads: 6", "num_attention_heads: 5", "5, which does not divide model.hidden_size, 192"),
        ("num_layers: 2", "num_layers: 2\n        num_key_value_heads: 4", "no multiple of .*num_key_value_heads, 4"),
        ("num_layers: 2", "num_layers: 2\n        overrides:\n          rope_theta: 5e5", "write rope_parameters: "),
        (
            "num_steps: 2",
            "num_steps: 2\n      mixture:\n        source_weights:\n          words: 1\n          stack: 2",
            "did",
        ),
        ("num_steps: 2", "num_steps: 2\n      freeze:\n        - nothing", "no parameter is named like 'nothing'"),
        ("tokenizer: tokenizer, corpus", "tokenizer: other, corpus", "was made with 'tokenizer', .*; take 'tokenizer'"),
        ("{tokens: tokens, tokenizer: tokenizer}", "{tokens: tokens, tokenizer: other}", "takes tokenizer 'other'"),
        ("language: en}", "language: jp}", "'jp' is no language tag; did you mean 'ja'"),
        ("{share: 0.1}", "{share: 0.1, shares: {words/en: 0.2, words/eng: 0.1}}", "'words/eng', which are the same"),
        ("{share: 0.1}", "{share: 0.1, shares: {words: 0.2}}", "no source and language; write both, such as web/sw"),
        ("{share: 0.1}", "{share: 0.1, shares: {words/sw: 0.2}}", "names 'words/sw', and the language there is en"),
    ],
)
def test_a_refusal_names_the_line_of_the_recipe(place: Path, old: str, new: str, says: str) -> None:
    (place / "toy.yaml").write_text(text := RECIPE.replace(old, new))
    changed = [n for n, line in enumerate(text.splitlines(), 1) if line not in RECIPE.splitlines()]
    told = refusal().splitlines()
    assert re.search(says, told[0])
    found = re.match(r"toy\.yaml:(\d+): ", told[0])
    assert found and int(found[1]) in changed, told


EVALUATION = """\
    config:
      documents_per_stream: 9
      domains:
        science: [words]
      tasks: [continuation]
      baselines: {}
      parallel: null
      data: null
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("science: [words]", "science: [wordz]", "no corpus has the source 'wordz'; did you mean 'words'?"),
        ("[continuation]", "[continuation, gone.yaml]", "tasks: gone.yaml is not there"),
        ("[continuation]", "['toy.py:aks']", "toy.py has no function 'aks'; did you mean 'ask'?"),
        ("baselines: {}", "baselines: {other: words.jsonl}", "baselines: other: words.jsonl has no config.json"),
        ("baselines: {}", "baselines: {this: words.jsonl}", "baselines has the name 'this', which tables have"),
        ("parallel: null", "parallel: nowhere", "parallel: nowhere is no directory"),
        ("data: null", "data: nowhere", "data: nowhere is no directory"),
    ],
)
def test_a_mistake_in_an_evaluation_is_told_with_the_line_of_its_key(
    place: Path, concord: Concord, old: str, new: str, says: str
) -> None:
    (place / "toy.py").write_text("def ask(model):\n    yield {'question': 'a', 'value': 1}\n")
    text = RECIPE.replace("    config: {tasks: []}\n", EVALUATION)
    (place / "toy.yaml").write_text(text)
    read_recipe(Path("toy.yaml"), ())
    (place / "toy.yaml").write_text(text.replace(old, new))
    code, _, err = concord("plan", "toy.yaml")
    assert code == 2 and says in err and "Traceback" not in err
    at = next(number for number, line in enumerate(text.splitlines(), 1) if old in line)
    own = 1 if "which tables have" in says else 0  # of what is refused by itself the whole config's
    assert own or err.startswith(f"concord: toy.yaml:{at}: "), err


def test_masks_that_leave_out_all_that_is_held_out_are_told_once_they_are_made(place: Path, concord: Concord) -> None:
    (place / "stacks.jsonl").write_bytes((place / "words.jsonl").read_bytes())
    asked = "inputs: {model: model, tokenizer: tokenizer, corpus: corpus.stacks, mask: unique.stacks}"
    (place / "toy.yaml").write_text(
        RECIPE.replace("inputs: {model: model, tokenizer: tokenizer, corpus: corpus, mask: unique}", asked).replace(
            "language: fr", "language: en"
        )
    )
    code, out, err = concord("run", "toy.yaml", "--cluster", "inline")
    assert code == 2 and "the masks leave out all" in err and "held-out documents, which earlier corpora have" in err
    assert not [line for line in out.splitlines() if line.startswith("model ")]


def test_a_report_of_nothing_is_refused(place: Path) -> None:
    (place / "toy.yaml").write_text(RECIPE.replace("outputs:", "  page: {stage: report}\noutputs:"))
    assert "step 'page' has nothing to report on; give it an input" in refusal()


CHAIN = """\
  anneal:
    stage: train
    inputs: {tokens: tokens, tokenizer: tokenizer, init: model}
    config:
      init_from: {mode: new_data}
"""


def chained() -> str:
    """Return the recipe with a second training that goes on from the first."""
    settings = RECIPE.partition("model:\n    stage: train")[2].partition("    config:\n")[2].partition("  scores:")[0]
    settings = settings.replace("hidden_size: 192", "hidden_size: 192 # 2").replace("3e-4}", "3e-4} # 2")
    return RECIPE.replace("outputs: [scores]\n", "") + CHAIN + settings + "outputs: [scores, anneal]\n"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{tasks: []}", "{tasks: [], checkpoint: 7}", "every 500 steps and of its last, 2"),
        ("{tasks: []}", "{tasks: [], weights: ema}", "keeps no average; give it `ema`"),
        (
            "{tasks: []}",
            "{tasks: [], average: 2}",
            "the training makes 1 checkpoint up to step 2; lower it",
        ),
        ("{mode: new_data}", "{mode: new_data, schedule: continued}", "the training that goes on has taken 2 by then"),
        (
            "{mode: new_data}",
            "{mode: new_data, checkpoint: 1}",
            "checkpoint: 1, and the training has those of every 500",
        ),
        ("{mode: new_data}", "{mode: new_data, path: x}", "config.init_from.path and inputs.init both say"),
        (
            "hidden_size: 192 # 2",
            "hidden_size: 96",
            "model.hidden_size: 96, and in the training that goes on it is 192",
        ),
        ("3e-4} # 2", "3e-4, kind: muon}", "that of the training whose state is kept is adamw"),
        ("tokenizer: tokenizer, init", "tokenizer: other, init", "takes tokenizer 'other', but 'tokens'"),
        (", init: model}", "}", "config.init_from has no path; give one, or name the training"),
    ],
)
def test_what_is_taken_of_another_training_must_be_there(place: Path, old: str, new: str, says: str) -> None:
    text = chained()
    (place / "toy.yaml").write_text(text)
    read_recipe(Path("toy.yaml"), ())
    assert text.count(old) == 1, old
    (place / "toy.yaml").write_text(changed := text.replace(old, new))
    told = refusal()
    assert says in told
    (number,) = {n for n, (a, b) in enumerate(zip(changed.splitlines(), text.splitlines(), strict=True), 1) if a != b}
    steps = [n for n, line in enumerate(changed.splitlines(), 1) if re.match(r"  \w+:", line)]
    found = re.match(r"toy\.yaml:(\d+): ", told)
    assert found and bisect_right(steps, int(found[1])) == bisect_right(steps, number), "a line of that step"


def test_keys_that_there_were_are_refused_with_what_to_set_instead(place: Path) -> None:
    text = RECIPE.replace("{share: 0.1}", "{documents_per_language: 4, max_fraction: 0.1}")
    text = text.replace("{tasks: []}", "{tasks: [], documents_per_language: 9}")
    (place / "toy.yaml").write_text(text)
    told = refusal()
    assert "steps.corpus.config.held_out.documents_per_language cannot be set here: documents are held out by" in told
    assert "as in `share: 0.05`" in told and "set `documents_per_stream`" in told and "max_fraction cannot" in told


def test_the_best_of_a_training_without_validation_is_refused(place: Path) -> None:
    told = refusal("steps.model.config.validation=null", "steps.scores.config.checkpoint=best")
    assert "the training has validation: null, so none is the best; take last" in told


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("steps.tokens.config.validation_bytes=0",), "the training has tokens with validation_bytes: 0, so none is"),
        (("steps.corpus.config.held_out.share=0",), "the training has a corpus with held_out.share: 0, so none is"),
        (("steps.corpus.config.held_out={share: 0, shares: {words/*: 0.1}}",), ""),
    ],
)
def test_what_holds_nothing_out_has_no_best_checkpoint_and_no_scores(
    place: Path, settings: tuple[str, ...], says: str
) -> None:
    asked = ("steps.scores.config.checkpoint=best", *settings)
    if not says:
        read_recipe(Path("toy.yaml"), asked)
        return
    told = refusal(*asked)
    assert f"checkpoint: best, and {says} the best; take last" in told
    assert ("scores held-out documents, and corpus holds none out" in told) == ("share" in says)


def test_a_refusal_names_the_override_that_it_is_for(place: Path) -> None:
    assert refusal(f"{MODEL}.num_attention_heads=5").startswith(f"--set {MODEL}.num_attention_heads=5: ")
    assert refusal(f"{MODEL}.overrides={{rope_theta: 1}}").startswith(f"--set {MODEL}.overrides={{rope_theta: 1}}: ")


@pytest.mark.parametrize(
    ("mixture", "says"),
    [
        ("{source_weights: {words: 1}}", "mixture.source_weights leaves out stacks; give it a weight, 0 to leave it"),
        ("{language_weights: {en: 1, sw: 1}}", "mixture.language_weights names 'sw'"),
        (
            "{phases: [{budget_tokens: 9999}, {source_weights: {word: 1, stacks: 1}}]}",
            "mixture.phases.1.source_weights names 'word', which the corpus does not have; did you mean 'words'",
        ),
    ],
)
def test_weights_name_what_the_recipe_has(place: Path, mixture: str, says: str) -> None:
    assert says in refusal(f"steps.model.config.mixture={mixture}")


def test_languages_that_documents_tell_are_not_known_before_they_are_read(place: Path) -> None:
    told = "steps.corpus.config.sources.0.language_field=lang"
    shares = "steps.corpus.config.held_out.shares={words/sw: 0.1, '*/sw': 0.2}"
    read_recipe(Path("toy.yaml"), (told, shares, "steps.model.config.mixture={language_weights: {sw: 1}}"))


def test_a_tokenizer_that_is_made_alike_is_the_same_one(place: Path) -> None:
    read_recipe(Path("toy.yaml"), ("steps.other.config.vocab_size=320", "steps.scores.inputs.tokenizer=other"))


def test_all_problems_are_said_at_once(place: Path) -> None:
    told = refusal(f"{MODEL}.num_attention_heads=5", f"{WEIGHTS}={{words: 1, stack: 2}}", f"{MODEL}.num_layers=1")
    assert len(told.splitlines()) == 2


@pytest.mark.parametrize("words", [("plan",), ("run",), ("submit", "--dry-run")], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ((f"{MODEL}.num_attention_heads=5",), "which does not divide"),
        ((f"{WEIGHTS}={{words: 1, stack: 2}}",), "names 'stack'"),
        ((f"{MODEL}.architecture=lama",), "did you mean llama"),
    ],
)
def test_plan_run_and_submit_refuse_alike_before_a_source_is_read(
    place: Path, concord: Concord, words: tuple[str, ...], overrides: tuple[str, ...], says: str
) -> None:
    (place / "words.jsonl").unlink()  # what reads the sources would say so
    chosen = [word for text in overrides for word in ("--set", text)]
    code, out, err = concord(words[0], "toy.yaml", *words[1:], *chosen)
    assert (code, out) == (2, "")
    assert err.startswith(f"concord: --set {overrides[0]}: ") and says in err and err.count("\n") == 1
    assert not (place / "store").exists()


def test_weights_of_another_model_are_refused_before_a_source_is_read(place: Path, concord: Concord) -> None:
    sizes = {"hidden_size": 96, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 6}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(place / "weights")
    (place / "words.jsonl").unlink()
    init = "steps.model.config.init_from={path: weights}"
    code, _, err = concord("plan", "toy.yaml", "--set", init)
    assert code == 2 and f"concord: --set {init}: init_from: weights holds " in err
    assert "but in the recipe's model it is" in err
    code, _, err = concord("plan", "toy.yaml", "--set", init, "--set", f"{MODEL}.hidden_size=96")
    assert "nothing matches 'words.jsonl'" in err
    err = concord("plan", "toy.yaml", "--set", "steps.model.config.init_from={path: owner/name}")[2]
    assert "is no directory that exists" in err and "a name on the Hub is not looked up" in err


@pytest.mark.parametrize("words", [("plan",), ("run",), ("submit", "--dry-run")], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("pool", "says"),
    [
        ("attention: flash_attention_2", "the pool's attention cannot be used: flash_attention_2 needs a GPU"),
        ("num_ranks: 400", "the pool wants 400 ranks"),
    ],
)
def test_plan_run_and_submit_refuse_what_a_pool_cannot_do(
    place: Path, concord: Concord, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], pool: str, says: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (place / "here.yaml").write_text(f"pools: {{default: {{{pool}}}}}\n")
    code, out, err = concord(words[0], "toy.yaml", *words[1:], "--cluster", "here.yaml")
    assert code in (2, 3)
    assert says in out + err
    assert not list(place.glob("store/clean-*"))


GPUS = (
    "pools: {default: {%s, num_nodes: 1, machines: {cpus_per_node: 64, memory_gib_per_node: 500, "
    "accelerators_per_node: 8}}}\n"
)


@pytest.mark.parametrize("words", [("plan",), ("run",), ("submit", "--dry-run")], ids=lambda words: words[0])
def test_attention_that_a_gpu_is_not_made_for_is_refused_where_it_stands(
    place: Path, concord: Concord, words: tuple[str, ...]
) -> None:
    (place / "a100.yaml").write_text(GPUS % "accelerator: A100, attention: flash_attention_3")
    bf16 = ("--set", "steps.model.config.precision=bf16")
    code, _, err = concord(words[0], "toy.yaml", *words[1:], *bf16, "--cluster", "a100.yaml")
    says = "the pool's attention cannot be used: flash_attention_3 is not made for this GPU; choose another, or `auto`"
    assert (code, err) == (2, f"concord: a100.yaml:1: {says}\n")
    (place / "t4.yaml").write_text(GPUS % "accelerator: T4")
    assert "attention by" not in concord("plan", "toy.yaml", *bf16, "--cluster", "t4.yaml")[1]


def test_a_checkpoint_that_a_training_goes_on_from_must_be_kept(place: Path, concord: Concord) -> None:
    (place / "toy.yaml").write_text(chained())
    settings = ["model.config.num_steps=3", "model.config.checkpoint_every_steps=1"]
    chosen = [f for one in (*settings, "anneal.config.init_from.checkpoint=1") for f in ("--set", f"steps.{one}")]
    for kept, said in (("newest: 2", True), ("newest: 3", False), ("newest: 1, every_steps: 1", False)):
        (place / "here.yaml").write_text(f"executor: inline\npools: {{default: {{retention: {{{kept}}}}}}}\n")
        code, _, err = concord("plan", "toy.yaml", *chosen, "--cluster", "here.yaml")
        assert code == (2 if said else 0), err
        assert said == ("checkpoint: 1 of step 'anneal' needs checkpoints that the pool's retention deletes" in err)


@pytest.mark.parametrize("words", [("plan",), ("run",), ("submit", "--dry-run")], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("setting", "what"), [("checkpoint=1", "checkpoint: 1"), ("average=3", "average: 3"), ("checkpoint=2", "")]
)
def test_checkpoints_that_retention_deletes_are_refused(
    place: Path, concord: Concord, words: tuple[str, ...], setting: str, what: str
) -> None:
    (place / "here.yaml").write_text("executor: inline\npools: {default: {retention: {newest: 1}}}\n")
    settings = ["steps.model.config.num_steps=3", "steps.model.config.checkpoint_every_steps=1"]
    if not what:  # with every checkpoint kept nothing is missing
        (place / "here.yaml").write_text(
            "executor: inline\npools: {default: {retention: {newest: 1, every_steps: 1}}}\n"
        )
        words = ("plan",)
    chosen = [f for one in (*settings, f"steps.scores.config.{setting}") for f in ("--set", one)]
    code, _, err = concord(words[0], "toy.yaml", *words[1:], *chosen, "--cluster", "here.yaml")
    if not what:
        assert code == 0, err
        return
    assert code == 2
    assert f"--set steps.scores.config.{setting}: {what} of step 'scores' needs checkpoints that the pool's" in err
    assert not list(place.glob("store/clean-*"))


def test_a_vocabulary_that_the_weights_do_not_have_is_said_before_the_training_is_begun(
    place: Path, concord: Concord
) -> None:
    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 6}
    LlamaForCausalLM(LlamaConfig(vocab_size=400, **sizes)).save_pretrained(place / "hub")
    start = ("--set", "steps.model.config.init_from={path: hub}")
    code, out, err = concord("run", "toy.yaml", *start, "--cluster", "inline")
    assert code == 2
    assert "has 400 rows in its vocabulary where the recipe's model has 320" in err and "init_from" in err
    assert "making tokenize" not in out, "right after the tokenizer"
    assert "has 400 rows" in concord("plan", "toy.yaml", *start)[2]


@pytest.mark.parametrize(
    ("setting", "says", "not_imported"),
    [
        (f"{MODEL}.num_attention_heads=5", "which does not divide", {"pipeline.stages", "numpy", "torch"}),
        ("steps.model.config.init_from.path=nowhere", "nowhere is no directory that exists", {"torch"}),
        ("steps.tokenizer={stage: import_tokenizer, config: {path: nowhere}}", "no file or directory", {"torch"}),
    ],
)
def test_a_bad_recipe_is_refused_before_what_makes_it_is_imported(
    place: Path, setting: str, says: str, not_imported: set[str]
) -> None:
    program = (
        "import sys; from pipeline.cli.app import main\n"
        f"sys.argv = ['concord', 'plan', 'toy.yaml', '--set', {setting!r}]\n"
        "try: main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert says in done.stderr
    assert "pipeline.recipe" in done.stdout.split()
    assert not not_imported & set(done.stdout.split())


@pytest.mark.parametrize(
    ("overrides", "made", "says"),
    [
        (
            ("steps.corpus.config.sources.1.paths=[words.jsonl]", f"{WEIGHTS}={{words: 1, stacks: 1}}"),
            [*CLEANED, "unique.words", "unique.stacks", "tokenizer", "tokens.words", "tokens.stacks"],
            r"mixture.source_weights must name each source once; it differs from the corpus in stacks",
        ),
        (("steps.corpus.config.held_out.share=1e-9",), CLEANED, "no document is held out, so there is nothing to"),
        (
            ("steps.model.config.sequence_length=1000", "steps.model.config.global_batch_size=16"),
            [*CLEANED, "unique.words", "unique.stacks", "tokenizer", "tokens.words", "tokens.stacks"],
            r"the corpus has \d+ sequences of 1000 tokens, fewer than one batch of 16",
        ),
    ],
)
def test_what_data_decide_is_said_after_the_step_that_knows_it(
    place: Path, concord: Concord, overrides: tuple[str, ...], made: list[str], says: str
) -> None:
    chosen = [word for text in overrides for word in ("--set", text)]
    assert concord("plan", "toy.yaml", *chosen)[0] == 0
    code, out, err = concord("run", "toy.yaml", "--cluster", "inline", *chosen)
    assert code == 2 and re.search(says, err), err
    assert [line.split()[0] for line in out.splitlines() if " making " not in line] == made
    again = concord("plan", "toy.yaml", *chosen)
    assert again[0] == 2 and again[2] == err


def test_shipped_recipes_have_nothing_wrong() -> None:
    for name in ("smoke", "one-billion"):
        assert read_recipe(Path(name), ()).path == shipped("recipes", name)
