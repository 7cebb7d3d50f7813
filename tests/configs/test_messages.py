import pytest

from configs.base import ConfigError
from configs.cluster import ClusterConfig
from configs.load import load
from configs.run import RunConfig

BROKEN = """\
nmae: toy
steps:
  corpus:
    stage: clean
    config:
      sources:
        - {name: one, kind: json_line, paths: [a.jsonl]}
        - {name: two, kind: plain_text, document: sentence, paths: [b.txt]}
      min_charactrs: 3
      max_unreadable: -1
      held_out:
        share: 2
  tokens:
    stage: tokenise
  model:
    config: {}
"""


def test_lists_and_mappings_are_called_so(tmp_path):
    lines = lines_of(tmp_path, "name: toy\nsteps: {a: {stage: train, config: {freeze: layers, init_from: x}}}\n")
    assert any(line.endswith("steps.a.config.freeze is 'layers', but it must be a list") for line in lines)
    assert any("init_from is 'x', but it must be a mapping of keys to values" in line for line in lines)


def lines_of(tmp_path, text: str, model=RunConfig) -> list[str]:
    path = tmp_path / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, model)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (1, "name is missing; it is required"),
        (1, "unknown key 'nmae' in the file; did you mean 'name'? (allowed: name, store, steps, outputs)"),
        (7, "steps.corpus.config.sources.0.kind is 'json_line'; did you mean 'json_lines'? (allowed: json_lines, "),
        (8, "steps.corpus.config.sources.1.document is 'sentence' (allowed: file, paragraph, line)"),
        (9, "unknown key 'min_charactrs' in steps.corpus.config; did you mean 'min_characters'? (allowed: sources, "),
        (10, "steps.corpus.config.max_unreadable is -1: input should be greater than or equal to 0"),
        (12, "steps.corpus.config.held_out.share is 2: input should be less than or equal to 1"),
        (14, "steps.tokens.stage is 'tokenise'; did you mean 'tokenize'? (allowed: clean, "),
        (15, "steps.model.stage is missing; it says which kind this is"),
    ],
)
def test_each_problem_has_its_line_and_what_is_allowed(tmp_path, where, what):
    assert any(line.startswith(f"toy.yaml:{where}: {what}") for line in lines_of(tmp_path, BROKEN))


def test_all_problems_come_at_once_and_no_tag_of_pydantic_is_shown(tmp_path):
    lines = lines_of(tmp_path, BROKEN)
    assert len(lines) == 9
    assert not any(tag in line for line in lines for tag in (".clean.", ".plain_text.", "[key]", "pydantic"))


def test_a_cluster_file_is_explained_the_same_way(tmp_path):
    text = "executor: rai\npools:\n  default: {zero_stage: 5}\n  gpu: {num_rank: 8}\n  'a b': {}\nwandb: {mode: of}\n"
    lines = lines_of(tmp_path, text, ClusterConfig)
    assert [line.split(": ")[0] for line in lines] == [f"toy.yaml:{n}" for n in (1, 3, 4, 5, 6)]
    assert "did you mean 'ray'? (allowed: ray, inline)" in lines[0]
    assert "pools.default.zero_stage is 5 (allowed: 0, 1, 2, 3)" in lines[1]
    assert "unknown key 'num_rank' in pools.gpu; did you mean 'num_ranks'?" in lines[2]
    assert "pools.a b is 'a b': string should match pattern" in lines[3]
    assert "(allowed: auto, online, offline)" in lines[4]


def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(tmp_path):
    text = """\
name: toy
steps:
  model:
    stage: train
    config:
      model: {hidden_size: 8, intermediate_size: 8, num_layers: 1, num_attention_heads: 1, overrides: {a: {b: [.nan]}}}
      sequence_length: 8
      global_batch_size: 1
      num_steps: 1
      optimizer: {learning_rate: .inf}
      schedule: {kind: cosine, num_warmup_steps: 0}
"""
    assert lines_of(tmp_path, text) == [
        "toy.yaml:6: steps.model.config.model.overrides.a.b.0 is nan: input should be a finite number",
        "toy.yaml:10: steps.model.config.optimizer.learning_rate is inf: input should be a finite number",
    ]


def test_a_long_value_is_shown_short(tmp_path):
    (line,) = [line for line in lines_of(tmp_path, f"name: {'x' * 5000}\n") if "name is" in line]
    assert len(line) < 200


def test_what_a_validator_refuses_is_said_in_its_words(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: x\nsteps:\n  corpus:\n    stage: clean\n    config:\n      min_characters: 50\n"
        "      max_characters: 10\n"
        "      sources: [{name: w, kind: json_lines, paths: [a]}]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(path, RunConfig)
    assert str(caught.value) == f"{path}:5: steps.corpus.config: min_characters, 50, is above max_characters, 10"
