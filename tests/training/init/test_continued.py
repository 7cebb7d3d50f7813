"""Whether a training can go on from a checkpoint that a path names: said before anything is run."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.base import UserError
from configs.training.train import TrainConfig
from tests.training.init.initial_files import RECORD
from tests.training.ranks import tiny_config, tiny_corpus
from training.data.batches import Batches
from training.init.continued import check_same_model, find_order_problems, find_problems, steps_before
from training.network.model_config import make_model_config
from training.records import Position, directory_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The files of a checkpoint of `tiny_config` after step 4, but for the ranks'."""
    directory = directory_of(tmp_path / "train-1" / "checkpoints", 4)
    directory.mkdir(parents=True)
    order = Batches(tiny_corpus(tmp_path / "tokens"), tiny_config()).order_record()
    record = RECORD.model_copy(update={"step": 4, "order": order, "position": Position(next_place=20)})
    (directory / "checkpoint.json").write_text(record.sealed().model_dump_json())
    settings = make_model_config(tiny_config(), vocab_size=320, eos_id=1, pad_id=2)
    (directory / "config.json").write_text(settings.to_json_string(use_diff=False))
    return directory


def going_on(checkpoint: Path, *, mode: str = "continue", schedule: str = "fresh", **changes: Any) -> TrainConfig:
    init = {"path": str(checkpoint), "mode": mode, "schedule": schedule}
    return tiny_config(init_from=init, **changes)


def problems(config: TrainConfig) -> dict[str, str]:
    assert config.init_from is not None
    return {".".join(map(str, one.location)): one.message for one in find_problems(config, config.init_from)}


MODEL = tiny_config().model.model_dump()


def model(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL | changes}


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        (model(num_layers=1), "model.num_layers", "model.num_layers: 1, and in the training that goes on it is 2"),
        (model(num_layers=3), "model.num_layers", "is 2; keep it as it was, or start from its weights alone"),
        (model(num_attention_heads=1), "model.num_attention_heads", "it is 3"),
        (model(tie_word_embeddings=False), "model.tie_word_embeddings", "it is True"),
        (model(architecture="mistral"), "model.architecture", "mistral, and in the training that goes on it is llama"),
        (model(architecture="phi"), "model.architecture", "phi, and in the training that goes on it is llama"),
        (
            model(overrides={"rope_parameters": {"rope_theta": 5e5}}),
            "model.overrides.rope_parameters",
            "model.overrides.rope_parameters: {'rope_theta': 500000.0}, and in the training",
        ),
        (model(overrides={"hidden_act": "gelu"}), "model.overrides.hidden_act", "gelu, and in the training that goes"),
        ({"num_steps": 4}, "num_steps", "is of step 4 already; num_steps or num_tokens counts from the start"),
        ({"num_steps": None, "num_tokens": 160}, "num_tokens", "must be greater than 4"),
        ({"seed": 3}, "seed", "seed: 3, and in the training that goes on it is 0; another order would repeat or skip"),
        ({"sequence_length": 8}, "sequence_length", "keep it, or set mode: new_data"),
    ],
)
def test_what_differs_from_the_checkpoint_is_told_where_it_stands(
    checkpoint: Path, changes: dict[str, Any], where: str, says: str
) -> None:
    assert problems(going_on(checkpoint)) == {}
    assert says in problems(going_on(checkpoint, **changes))[where]
    other_data = problems(going_on(checkpoint, mode="new_data", **changes))
    assert (where in other_data) == where.startswith("model"), "other data has another order and its own count"


def test_the_optimizer_of_a_finished_training_is_known(checkpoint: Path) -> None:
    muon = going_on(checkpoint, optimizer={"learning_rate": 0.01, "kind": "muon"})
    assert problems(muon) == {}
    (checkpoint.parents[1] / "record.json").write_text(json.dumps({"config": {"optimizer": {"kind": "adamw"}}}))
    assert "muon, and that of the training whose state is kept is adamw" in problems(muon)["optimizer.kind"]


def test_a_whole_configuration_is_compared_where_the_checkpoint_is_loaded(checkpoint: Path) -> None:
    """Of architectures that the table does not know, too."""
    settings = make_model_config(tiny_config(), vocab_size=320, eos_id=1, pad_id=2).to_dict()
    check_same_model(checkpoint, settings | {"vocab_size": 9, "max_position_embeddings": 9, "attention_dropout": 0.5})
    with pytest.raises(UserError, match=r"model: rms_norm_eps: 0\.5, and in the training that goes on it is 1e-06"):
        check_same_model(checkpoint, settings | {"rms_norm_eps": 0.5})
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        check_same_model(checkpoint, settings)


def test_another_order_of_the_data_is_told_once_there_are_tokens(tmp_path: Path, checkpoint: Path) -> None:
    tokens = tiny_corpus(tmp_path / "tokens")
    other = {"mixture": {"source_weights": {"web": 1, "science": 9}}}
    assert list(find_order_problems(going_on(checkpoint), tokens, source=None)) == []
    (problem,) = find_order_problems(going_on(checkpoint, **other), tokens, source=None)
    assert problem.location == ("init_from",) and "cannot go on in another order" in problem.message
    chained = tiny_config(init_from={"mode": "continue"}, num_steps=9, **other)
    assert len(list(find_order_problems(chained, tokens, source=tiny_config()))) == 1
    assert list(find_order_problems(chained, tokens, source=tiny_config(**other))) == []


def test_steps_that_another_training_took_are_not_taken_again(checkpoint: Path) -> None:
    assert steps_before(going_on(checkpoint), None) == 4
    assert steps_before(going_on(checkpoint, mode="new_data", schedule="continued"), None) == 4
    assert steps_before(going_on(checkpoint, mode="new_data"), None) == 0
    assert steps_before(going_on(checkpoint, mode="weights"), None) == steps_before(tiny_config(), None) == 0
    chained = tiny_config(init_from={"mode": "continue", "checkpoint": 2})
    assert steps_before(chained, tiny_config()) == 2
    assert steps_before(tiny_config(init_from={"mode": "continue"}), tiny_config()) == 6
