import pytest

from configs.base import ConfigError
from configs.load import load
from configs.run import RunConfig

RECIPE = """\
name: toy
steps:
  corpus:
    stage: clean
    config:
      sources:
        - {name: one, kind: json_lines, paths: [a.jsonl]}
  model:
    stage: train
    config:
      model: {hidden_size: 8, intermediate_size: 8, num_layers: 1, num_attention_heads: 1}
      sequence_length: 8
      global_batch_size: 1
      num_steps: 1
      optimizer: {learning_rate: 1e-3}
      schedule: {kind: cosine, num_warmup_steps: 0}
"""
CORPUS, MODEL = "steps.corpus.config", "steps.model.config"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def refusal(path, *overrides) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, RunConfig, overrides)
    return str(caught.value).splitlines()


def test_an_override_replaces_a_value_at_any_depth(recipe):
    run = load(
        recipe, RunConfig, ("name=other", f"{MODEL}.optimizer.learning_rate=2e-4", f"{CORPUS}.sources.0.name=x")
    ).config
    assert run.name == "other"
    assert run.steps["model"].config.optimizer.learning_rate == 2e-4
    assert run.steps["corpus"].config.sources[0].name == "x"


def test_an_override_creates_the_mappings_on_its_way(recipe):
    run = load(recipe, RunConfig, (f"{CORPUS}.held_out.share=0.07",)).config
    assert run.steps["corpus"].config.held_out.share == 0.07


def test_an_override_may_hold_a_list_or_a_mapping(recipe):
    source = "{name: p, kind: parquet, paths: [a.parquet, b.parquet]}"
    run = load(recipe, RunConfig, (f"{CORPUS}.sources=[{source}]", "outputs=[corpus]")).config
    assert run.steps["corpus"].config.sources[0].paths == ("a.parquet", "b.parquet")
    assert run.outputs == ("corpus",)


def test_the_last_of_two_overrides_wins(recipe):
    assert load(recipe, RunConfig, ("name=a", "name=b")).config.name == "b"


def test_the_value_of_an_override_may_hold_an_equals_sign(recipe):
    assert load(recipe, RunConfig, ("store=a=b",)).config.store == "a=b"


def test_an_override_may_add_a_whole_step(recipe):
    run = load(recipe, RunConfig, ("steps.tokens={stage: tokenize, inputs: {corpus: corpus}}",)).config
    assert run.steps["tokens"].inputs == {"corpus": "corpus"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("name", "must look like key.key=value"),
        ("=toy", "must look like key.key=value"),
        ("steps..pool=a", "must look like key.key=value"),
        ("name=[a", "not YAML"),
        ("name={a: 1, a: 2}", "'a' is given twice"),
        ("name=!x y", "unknown tag '!x'"),
        ("steps.corpsu.pool=a", "no step is named 'corpsu'; there are: corpus, model"),
        ("name.first=a", "name holds 'toy', which has no keys"),
        (f"{MODEL}.num_steps.x.y=a", f"{MODEL}.num_steps holds 1, which has no keys"),
        (f"{CORPUS}.sources.1.name=a", "'1' is not an item; there are items 0 to 0"),
        (f"{CORPUS}.sources.one.name=a", "'one' is not an item"),
        (f"{CORPUS}.sources.².name=a", "'²' is not an item"),
        (f"{CORPUS}.min_charcters=3", "did you mean 'min_characters'?"),
        (f"{CORPUS}.min_characters=few", "is 'few': input should be a valid integer"),
        (f"{CORPUS}.sources.0.kind=jsonlines", "did you mean 'json_lines'?"),
        (
            f"{MODEL}.init_from.checkpoint=foo",
            "checkpoint is 'foo' (allowed: last, best, or a number: input should be a",
        ),
        (f"{MODEL}.init_from.checkpoint=0", "is 0 (allowed: last, best, or a number: input should be greater than 0)"),
        ("steps.5=x", "steps.5 is 'x'"),
        ("steps.a b={stage: tokenize}", "steps.a b is 'a b'"),
    ],
)
def test_a_wrong_override_is_refused_as_it_was_written(recipe, override, words):
    (line,) = refusal(recipe, override)
    assert line.startswith(f"--set {override}: ")
    assert words in line


def test_what_is_missing_below_an_override_is_shown_at_the_override(recipe):
    override = f"{MODEL}.schedule={{kind: wsd}}"
    lines = refusal(recipe, f"{MODEL}.schedule.num_warmup_steps=3", override)
    assert [line.startswith(f"--set {override}: ") for line in lines] == [True, True]
    assert "num_warmup_steps is missing" in lines[0]
    assert "num_decay_steps is missing" in lines[1]


def test_a_problem_of_several_keys_names_the_overrides_among_them(recipe):
    (line,) = refusal(recipe, f"{MODEL}.schedule.num_warmup_steps=3", "name=other")
    assert line.startswith(f"{recipe}:10 (with --set {MODEL}.schedule.num_warmup_steps=3): ")
    assert "warm-up and decay take longer than num_steps (steps: 1)" in line


def test_problems_of_the_file_and_of_overrides_come_together(recipe):
    recipe.write_text(RECIPE.replace("num_steps: 1", "num_steps: 0"), encoding="utf-8")
    in_file, in_override = sorted(refusal(recipe, f"{MODEL}.seed=-1"), reverse=True)
    assert in_file.startswith(f"{recipe}:14: {MODEL}.num_steps is 0")
    assert in_override.startswith(f"--set {MODEL}.seed=-1: ")


def test_all_wrong_overrides_are_told_at_once_with_what_is_wrong_in_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("nmae: x\nsteps: {tokens: {stage: tokenize}}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, RunConfig, ("nonsense", "steps.modl.config.x=1", "steps.tokens.config.y=2"))
    lines = str(caught.value).splitlines()
    for start in ("--set nonsense:", "--set steps.modl.config.x=1:", "--set steps.tokens.config.y=2:", f"{path}:1:"):
        assert any(line.startswith(start) for line in lines), start
