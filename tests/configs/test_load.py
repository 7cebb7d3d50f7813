from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import ConfigError
from configs.cluster import ClusterConfig
from configs.load import Problem, dump_yaml, load, parse, quote_yaml, shipped
from configs.run import RunConfig

RECIPE = """\
name: toy
steps:
  corpus:
    stage: clean
    config:
      sources:
        - {name: one, kind: json_lines, paths: [a.jsonl]}
        - name: two
          kind: plain_text
          paths: [b.txt]
      min_characters: 5
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def clean_config(path: Path, *overrides: str):
    return load(path, RunConfig, overrides).config.steps["corpus"].config


def refusal(path: Path, *overrides: str, text: str | bytes | None = None, model=RunConfig) -> list[str]:
    """Return the lines of the error, with the file's directory cut off."""
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(path, model, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_a_recipe_gives_its_config(recipe):
    config = clean_config(recipe)
    assert config.min_characters == 5
    assert [source.name for source in config.sources] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("[sw, no, en]", ["sw", "no", "en"]),
        ("12:30", "12:30"),
        ("2020-01-31", "2020-01-31"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("NULL", None),
        ("~", None),
        ("", None),
        ("1e-3", 0.001),
        ("4E3", 4000.0),
        (".5", 0.5),
        ("010", 10),
        ("-7", -7),
        ("0o17", 15),
        ("0xfF", 255),
        ("'true'", "true"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    parsed = parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_norwegian_is_a_language_not_a_boolean(recipe):
    config = clean_config(recipe, "steps.corpus.config.sources.0.language=no")
    assert config.sources[0].language == "no"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: a\nsteps: [1\nstore: b\n", 3, "not YAML"),
        ("name: a\nsteps:\n\t- b\n", 3, "not YAML"),
        ("name: a\n---\nname: b\n", 2, "another document"),
        ("name: *nobody\n", 1, "undefined alias 'nobody'"),
        ("name: a\nstore: b\nname: c\n", 3, "'name' is given twice; the first is on line 1"),
        ("steps:\n  a:\n    pool: x\n    pool: y\n", 4, "'pool' is given twice; the first is on line 3"),
        ("name: a\n[b, c]: d\n", 2, "a key must be a single word"),
        ("name: a\n? {b: c}\n: d\n", 2, "a key must be a single word"),
        ("base: &base {a: 1}\nsteps:\n  <<: *base\n", 3, "no merge key"),
        ("name: a\nstore: !path b\n", 2, "unknown tag '!path'"),
        ("name: !!python/name:os.system\n", 1, "unknown tag"),
        ("name: !!int twelve\n", 1, "not a value of type 'int'"),
        ("name: a\nstore: " + "9" * 5000, 2, "not a value of type 'int'"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_with_its_line(recipe, text, line, words):
    first, *_ = refusal(recipe, text=text)
    assert first.startswith(f"toy.yaml:{line}: ")
    assert words in first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold keys and values"),
        ("# nothing but a comment\n", "must hold keys and values"),
        ("- name\n- steps\n", "must hold keys and values"),
        ("a word\n", "must hold keys and values"),
        (b"name: caf\xe9\n", "cannot be read as UTF-8"),
        ("name: \x00\n", "not YAML"),
        ("name: " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ("steps: &all\n  again: *all\n", "an alias holds itself"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(recipe, text, words):
    (line,) = refusal(recipe, text=text)
    assert line.startswith("toy.yaml: ")
    assert words in line


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert refusal(tmp_path / "none.yaml") == [
        "none.yaml: no such file; give the path of a YAML file, or a shipped name"
    ]


def test_a_directory_is_refused(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (line,) = refusal(tmp_path / "folder.yaml")
    assert "cannot be read" in line


def test_an_alias_stands_for_a_whole_value_and_is_a_copy(recipe):
    recipe.write_text(RECIPE.replace("[a.jsonl]", "&files [a.jsonl]").replace("[b.txt]", "*files"), encoding="utf-8")
    first, second = clean_config(recipe, "steps.corpus.config.sources.0.paths.0=z.jsonl").sources
    assert (first.paths, second.paths) == (("z.jsonl",), ("a.jsonl",))


def test_a_key_that_is_a_number_is_read_as_text(recipe):
    recipe.write_text(RECIPE.replace("corpus:", "7:"), encoding="utf-8")
    assert list(load(recipe, RunConfig).config.steps) == ["7"]


def test_problems_found_later_are_shown_where_the_value_stands(recipe):
    loaded = load(recipe, RunConfig, ("steps.corpus.pool=big",))
    loaded.fail([])
    with pytest.raises(ConfigError) as caught:
        loaded.fail(
            [
                Problem(("steps", "corpus", "config", "sources", 1, "paths"), "first"),
                Problem(("steps", "corpus", "inputs", "none"), "second"),
                Problem(("steps", "corpus", "pool"), "third"),
            ]
        )
    assert str(caught.value).splitlines() == [
        f"{recipe}:10: first",
        f"{recipe}:3: second",
        "--set steps.corpus.pool=big: third",
    ]


def test_shipped_files_are_found_by_name_and_others_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(shipped("clusters", "inline"), ClusterConfig).config.executor == "inline"
    assert shipped("recipes", "mine.yaml") == Path("mine.yaml")
    with pytest.raises(
        ConfigError, match=r"no cluster is named 'inlin'; there are: eight-gpus, inline, kubernetes, local, ray, slurm"
    ):
        shipped("clusters", "inlin")


@pytest.mark.parametrize(
    "line",
    [
        'setup: ["export HF_TOKEN=hf_aB3aB3aB3aB3aB3aB3"]',
        'options: {comment: "password=hunter2"}',
        "partition: hf_aB3aB3aB3aB3aB3aB3",
    ],
)
def test_a_secret_in_a_cluster_file_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "c.yaml"
    path.write_text(f"launcher:\n  kind: slurm\n  {line}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3: holds a secret, .* `pass_environment`") as caught:
        load(path, ClusterConfig)
    assert "hunter2" not in str(caught.value) and "aB3" not in str(caught.value)


def test_where_a_secret_comes_from_may_stand_in_a_cluster_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "launcher:\n  kind: slurm\n  setup:\n"
        '    - export HF_TOKEN=$(cat ~/.hf) WANDB_API_KEY="$KEY" X_PASS=${Y} && . .venv/bin/activate\n'
    )
    load(path, ClusterConfig)


@pytest.mark.parametrize("path", ["hf_aB3aB3aB3aB3aB3aB3", "s3://key:hunter2@bucket/x", "ghp_aB3aB3aB3aB3aB3aB3"])
def test_a_secret_in_a_recipe_is_refused(tmp_path, path):
    with pytest.raises(ConfigError, match="holds a secret"):
        load(written(tmp_path, path), RunConfig)


@pytest.mark.parametrize("path", ["token: of love", "sk-news-2020-2024-deduplicated.gz", "hf_fineweb2multilingual"])
def test_ordinary_words_of_a_recipe_are_no_secrets(tmp_path, path):
    load(written(tmp_path, path), RunConfig)


def written(directory: Path, source: str) -> Path:
    """Write a recipe that reads a source."""
    path = directory / "r.yaml"
    kind = f"{{name: a, kind: json_lines, paths: ['{source}'], language: en}}"
    path.write_text(f"name: r\nsteps:\n  c: {{stage: clean, config: {{sources: [{kind}]}}}}\n")
    return path


def test_a_directory_named_like_a_shipped_file_is_not_taken_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    assert shipped("clusters", "local").name == "local.yaml"


TEXTS = st.text(st.characters(codec="utf-8"))
SCALARS = TEXTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(TREES)
def test_what_is_dumped_is_read_as_the_same_by_any_reader(value: object) -> None:
    text = dump_yaml({"key": value})
    assert parse(text) == yaml.safe_load(text) == {"key": value}


@pytest.mark.parametrize(
    "word", ["no", "1e3", "0o17", "12:30", "~", "2026-11-28", "=", "<<", "0x1f", ".5", "a\x85b", "1_0", ""]
)
def test_a_dumped_text_that_looks_like_something_else_is_a_text(word: str) -> None:
    assert parse(dump_yaml({"key": word})) == yaml.safe_load(dump_yaml({"key": word})) == {"key": word}
    assert parse(quote_yaml(word)) == yaml.safe_load(quote_yaml(word)) == word
