"""Whether a training can go on from the checkpoint of another, by the checkpoint's files. Imports nothing heavy.

What they show is refused when a recipe is read; what the text decides, once its tokens are there; and all of it again
where the checkpoint is loaded, since a configuration of another family than those of the table is known there alone.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.base import Artifact, UserError
from configs.load import Problem
from configs.training.init import InitConfig
from configs.training.model import ModelConfig
from configs.training.train import TrainConfig
from data_prep.manifests import TokenizedCorpus
from training.data.batches import Batches, check_same_order
from training.init.locate import find_checkpoint_to_continue
from training.records import read_known_record
from training.sizing.parameter_shapes import complete_config, is_known_family

_CONFIG = "config.json"

_WITHOUT_EFFECT = (
    "vocab_size|.*_token_id|max_position_embeddings|transformers_version|architectures|.*dtype|use_cache|_name_or_path|"
    "initializer_range"
)
"""Keys of a configuration that change nothing of what weights compute, or are compared as the vocabulary."""

_RECIPE_NAMES = {"num_hidden_layers": "num_layers", "model_type": "architecture"}
"""What the recipe calls keys of transformers' configuration, where it has another name."""


def find_problems(config: TrainConfig, init: InitConfig) -> Iterator[Problem]:
    """Yield why a training cannot go on from the checkpoint that `init_from` names; locations begin in its config.

    Raises UserError if the path leads to none.
    """
    directory = find_checkpoint_to_continue(init)
    record = read_known_record(directory)
    if (init.mode == "continue" or init.schedule == "continued") and record.step >= config.total_steps:
        yield Problem(
            ("num_steps" if config.num_tokens is None else "num_tokens",),
            f"init_from: {directory} is of step {record.step:,} already; num_steps or num_tokens counts from the start "
            f"of that training, so it must be greater than {record.step:,}",
        )
    for key in ("seed", "sequence_length") if init.mode == "continue" else ():
        before, now = getattr(record.order, key), getattr(config, key)
        if before != now:
            yield Problem(
                (key,),
                f"{key}: {now}, and in the training that goes on it is {before}; another order would repeat or skip "
                "samples: keep it, or set mode: new_data",
            )
    kind = _optimizer_kind(directory)
    if kind is not None and kind != config.optimizer.kind:
        yield Problem(
            ("optimizer", "kind"),
            f"optimizer.kind: {config.optimizer.kind}, and that of the training whose state is kept is {kind}; keep "
            "it, or start from its weights alone (mode: weights)",
        )
    for key, (before, now) in _differences(read_settings(directory), _settings_of(config.model)).items():
        own = _RECIPE_NAMES.get(key, key)
        at = ("model", own) if own in ModelConfig.model_fields else ("model", "overrides", key)
        yield Problem(at, _describe(".".join(at), before, now))


def steps_before(config: TrainConfig, source: TrainConfig | None) -> int:
    """Return the optimizer steps that a training begins after, which count among its own; 0 for a new count.

    `source` is the training that it takes as its input `init`, of which the best checkpoint is reckoned as the last.
    """
    init = config.init_from
    if init is None or init.mode == "weights" or (init.mode == "new_data" and init.schedule == "fresh"):
        return 0
    if source is not None:
        return init.checkpoint if isinstance(init.checkpoint, int) else source.total_steps
    return read_known_record(find_checkpoint_to_continue(init)).step


def find_order_problems(
    config: TrainConfig, tokens: Artifact[TokenizedCorpus], *, source: TrainConfig | None
) -> Iterator[Problem]:
    """Yield why a training that goes on in the order of its data (`mode: continue`) cannot, by its tokens.

    `source` is the training that it takes as its input `init`, over the same tokens; None if a path names it.
    """
    init = config.init_from
    if init is None or init.mode != "continue" or (init.path is None and source is None):
        return
    if source is None:
        record = read_known_record(find_checkpoint_to_continue(init))
        order, next_place = record.order, record.position.next_place
    else:
        taken = init.checkpoint if isinstance(init.checkpoint, int) else source.total_steps
        order, next_place = Batches(tokens, source).order_record(), source.samples_before(taken)
    try:
        check_same_order(order, Batches(tokens, config).order_record(), next_place=next_place)
    except UserError as error:
        yield Problem(("init_from",), str(error))


def check_same_model(directory: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError if a model with these settings computes otherwise than the one whose checkpoint it goes on from.

    `settings` is transformers' configuration, whole.
    """
    for key, (before, now) in _differences(read_settings(directory), settings).items():
        raise UserError(_describe(f"model: {key}", before, now))


def read_settings(directory: Path) -> dict[str, Any]:
    """Return the configuration of the model in a checkpoint. Raises UserError if it is damaged."""
    try:
        settings = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"init_from: {directory / _CONFIG} is damaged ({error}); name another checkpoint") from error
    return settings if isinstance(settings, dict) else {}


def _optimizer_kind(directory: Path) -> str | None:
    """Return the optimizer of a finished training, by its artifact's record; None if there is none, or of another
    version: where the checkpoint is loaded its moments show it."""
    try:
        record = json.loads((directory.parent.parent / "record.json").read_text(encoding="utf-8"))
        return str(record["config"]["optimizer"]["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _settings_of(model: ModelConfig) -> dict[str, Any]:
    """Return what is known of a recipe's model without transformers: all that shows in a known family."""
    tied = {"tie_word_embeddings": model.tie_word_embeddings, "model_type": model.architecture}
    if is_known_family(model.architecture):
        return complete_config(model, 0, 0) | tied
    given = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads or model.num_attention_heads,
    }
    return given | tied | model.overrides


def config_differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, besides: str
) -> dict[str, tuple[Any, Any]]:
    """Return the keys of two configurations of transformers with other values, and these, where that tells on what
    weights compute. The key `besides` is left out, too."""
    ignored = re.compile(f"{_WITHOUT_EFFECT}|{besides}")
    return {
        key: (before[key], now[key])
        for key in sorted(before.keys() & now.keys())
        if not ignored.fullmatch(key) and not _is_same(before[key], now[key])
    }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs from the model that goes on. The architecture comes alone: its keys follow."""
    found = config_differences(before, now, besides="attention_dropout")
    return {"model_type": found["model_type"]} if "model_type" in found else found


def _is_same(before: Any, now: Any) -> bool:
    if isinstance(before, dict) and isinstance(now, dict):  # a recipe may leave out what has its default
        return all(_is_same(before[key], now[key]) for key in before.keys() & now.keys())
    return bool(before == now)


def _describe(key: str, before: Any, now: Any) -> str:
    return (
        f"{key}: {now}, and in the training that goes on it is {before}; keep it as it was, or start from its weights "
        "alone (mode: weights)"
    )
