"""What `init_from` leads to, what it holds now, and what is said when it leads nowhere."""

import errno
import json
import os
from pathlib import Path

import pytest

from cluster.host.files import sha256_of
from configs.base import InfrastructureError, UserError
from configs.training.init import InitConfig
from tests.training.init.initial_files import RECORD, RIVERS, our_own, save_record
from tests.training.ranks import tiny_config
from training.init.locate import (
    find_checkpoint_to_continue,
    find_tokenizer,
    find_weights,
    list_weight_files,
    observe_init_from,
    with_absolute_paths,
)
from training.records import directory_of


def hugging_face(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": "{}", "model.safetensors": "weights"}.items():
        (directory / name).write_text(content)
    return directory


def checkpoint(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "checkpoint.json").write_text(RECORD.model_dump_json())
    (directory / "config.json").write_text("{}")
    return directory


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        find_weights(InitConfig(path=str(path)))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def observed(path: Path, calls: list[Path] | None = None, **init: str) -> object:
    def digest(file: Path) -> str:
        if calls is not None:
            calls.append(file)
        return sha256_of(file)

    return observe_init_from(tiny_config(init_from={"path": str(path), **init}), digest)


def test_weights_are_found_in_every_kind_of_directory(tmp_path: Path) -> None:
    model = hugging_face(tmp_path / "hub")
    step = checkpoint(directory_of(tmp_path / "train-1" / "checkpoints", 7))
    assert find_weights(InitConfig(path=str(model))) == model
    assert find_weights(InitConfig(path=str(step))) == step
    assert "not finished; give the step of one as init_from.checkpoint" in error_of(tmp_path / "train-1")
    save_record(tmp_path / "train-1", "train", checkpoint="checkpoints/step-00000007")
    assert find_weights(InitConfig(path=str(tmp_path / "train-1"))) == step
    assert find_weights(InitConfig(path=str(tmp_path / "train-1"), checkpoint=7)) == step
    exported = hugging_face(tmp_path / "export-1" / "model")
    assert find_weights(InitConfig(path=str(save_record(tmp_path / "export-1", "export", path="model")))) == exported


def test_files_of_a_sharded_model_are_those_of_its_index(tmp_path: Path) -> None:
    model = hugging_face(tmp_path)
    assert [file.name for file in list_weight_files(model)] == ["model.safetensors"]
    index = model / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})
    )
    assert "lacks one.safetensors" in error_of(model)
    for name in ("one", "two"):
        (model / f"{name}.safetensors").touch()
    assert [file.name for file in list_weight_files(model)] == ["one.safetensors", "two.safetensors"]
    index.write_text("{}")
    assert "index.json is damaged" in error_of(model)


def test_a_path_without_weights_is_one_sentence(tmp_path: Path) -> None:
    assert "is no directory" in error_of(tmp_path / "nowhere")
    assert "nor checkpoint.json, nor checkpoints/; name" in error_of(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert "pytorch_model.bin, which runs code" in error_of(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert "a training that is not finished" in error_of(tmp_path)
    assert "stage 'clean', which makes no weights" in error_of(save_record(tmp_path, "clean"))
    (tmp_path / "record.json").write_text("[]")
    assert "record.json is damaged" in error_of(tmp_path)


def test_only_a_checkpoint_can_be_continued(tmp_path: Path) -> None:
    step = checkpoint(tmp_path / "step-00000001")
    assert find_checkpoint_to_continue(InitConfig(path=str(step), mode="continue")) == step
    model = hugging_face(tmp_path / "hub")
    with pytest.raises(UserError, match=r"no optimizer state .* mode: weights"):
        find_checkpoint_to_continue(InitConfig(path=str(model), mode="continue"))
    with pytest.raises(UserError, match="mode: weights"):
        observed(model, mode="continue")


def test_the_tokenizer_is_the_one_that_is_named_or_lies_beside_the_weights(tmp_path: Path) -> None:
    model, named = hugging_face(tmp_path / "hub"), our_own(tmp_path / "train_tokenizer-1" / "hugging_face", RIVERS, 320)
    assert find_tokenizer(InitConfig(path=str(model))) is None
    assert find_tokenizer(InitConfig(path=str(model), tokenizer=str(named))) == named
    assert find_tokenizer(InitConfig(path=str(model), tokenizer=str(named.parent))) == named
    our_own(model, RIVERS, 320)
    assert find_tokenizer(InitConfig(path=str(model))) == model
    with pytest.raises(UserError, match=r"init_from.tokenizer: .* no directory with a tokenizer.json"):
        find_tokenizer(InitConfig(path=str(model), tokenizer=str(tmp_path)))


@pytest.mark.parametrize("maker", ["train-1", "tokenize-1"])
def test_the_tokenizer_of_a_checkpoint_is_found_by_lineage(
    tmp_path: Path, maker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = checkpoint(directory_of(tmp_path / "train-1" / "checkpoints", 7))
    assert find_tokenizer(InitConfig(path=str(step))) is None
    tokenizer = our_own(tmp_path / "train_tokenizer-1" / "hugging_face", RIVERS, 320)
    save_record(tmp_path / maker, "train", tokenizer="train_tokenizer-1", checkpoint="checkpoints/step-00000007")
    monkeypatch.chdir(step)
    for path in (*([str(tmp_path / "train-1")] if maker == "train-1" else []), str(step), "."):
        found = find_tokenizer(InitConfig(path=path))
        assert found is not None and os.path.samefile(found, tokenizer)


def test_a_training_with_absolute_paths_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    our_own(hugging_face(tmp_path / "hub"), RIVERS, 320)
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(tiny_config(init_from={"path": "hub", "tokenizer": "hub"}), None)
    monkeypatch.chdir("/")
    assert config.init_from is not None
    assert find_weights(config.init_from) == find_tokenizer(config.init_from) == tmp_path / "hub"
    assert with_absolute_paths(tiny_config(), None) == tiny_config()


def test_identity_is_of_the_bytes_that_count(tmp_path: Path) -> None:
    assert observe_init_from(tiny_config(), sha256_of) is None
    model = our_own(hugging_face(tmp_path), RIVERS, 320)
    first = observed(model)
    (model / "README.md").write_text("of no effect")
    assert observed(model) == first
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        kept = (model / name).read_text()
        (model / name).write_text(f"{kept} ")
        assert observed(model) != first, name
        (model / name).write_text(kept)
    assert observed(model) == first
    with pytest.raises(UserError, match="is no directory"):
        observed(tmp_path / "gone")


def test_identity_of_what_concord_made_needs_no_weights(tmp_path: Path) -> None:
    step = checkpoint(directory_of(tmp_path / "train-1" / "checkpoints", 7))
    (step / "rank-00000-of-00001.safetensors").touch()
    calls: list[Path] = []
    first = observed(step, calls)
    (step / "checkpoint.json").write_text(RECORD.model_copy(update={"loss": 2.0}).model_dump_json())
    assert observed(step, calls, mode="continue") != first
    made = save_record(tmp_path / "train-1", "train", checkpoint="checkpoints/step-00000007")
    assert observed(made, calls) == {"weights": {"fingerprint": "train-1" * 8}, "tokenizer": {}}
    assert {file.name for file in calls} == {"checkpoint.json", "config.json"}


@pytest.mark.parametrize(("code", "kind"), [(errno.ESTALE, InfrastructureError), (errno.EACCES, UserError)])
def test_weights_that_cannot_be_read_for_now_are_no_mistake_of_the_user(tmp_path: Path, code: int, kind: type) -> None:
    def digest(file: Path) -> str:
        raise OSError(code, os.strerror(code), str(file))

    config = tiny_config(init_from={"path": str(our_own(hugging_face(tmp_path), RIVERS, 320))})
    with pytest.raises(UserError, match=r"config\.json cannot be read") as caught:
        observe_init_from(config, digest)
    assert type(caught.value) is kind
