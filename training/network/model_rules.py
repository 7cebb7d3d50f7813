"""What no model of a recipe may be, whatever its architecture. Imports nothing heavy.

training/sizing/model_check.py asks this when a recipe is read, training/network/build_model.py when a model is built.
"""

from collections.abc import Iterator

from pydantic import JsonValue

from configs.load import Problem
from configs.training import ModelConfig, TrainConfig

OLD_ROPE_KEYS = ("rope_theta", "rope_scaling")
"""Keys of configurations before transformers 5."""

_OWN_NAMES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "tie_word_embeddings": "tie_word_embeddings",
}
"""Keys of transformers' configuration that the recipe has, with their names in the recipe."""

_OF_THE_TOKENIZER = ("bos_token_id", "eos_token_id", "pad_token_id")


def find_rule_problems(config: TrainConfig, *, vocab_size: int | None) -> Iterator[Problem]:
    """Yield what is wrong with a training's model in any architecture; locations begin in the training's config.

    `vocab_size` is that of the tokenizer; None if it is not known yet.
    """
    model, given = config.model, config.model.overrides
    heads, shared = model.num_attention_heads, model.num_key_value_heads or 1
    if heads % shared:
        yield Problem(
            ("model", "num_key_value_heads"),
            f"model.num_attention_heads is {heads}, which is no multiple of model.num_key_value_heads, {shared}",
        )
    for key in given:
        if key in _OWN_NAMES:
            yield _problem(key, f"is model.{_OWN_NAMES[key]} in a recipe; set that, and leave this out")
        elif key in _OF_THE_TOKENIZER:
            yield _problem(key, "follows from the tokenizer; leave it out")
    rows, positions = given.get("vocab_size"), given.get("max_position_embeddings")
    if vocab_size is not None and isinstance(rows, int) and rows < vocab_size:
        yield _problem("vocab_size", f"is {rows}, but the tokenizer has {vocab_size}; leave it out")
    if isinstance(positions, int) and positions < config.sequence_length:
        yield _problem(
            "max_position_embeddings",
            f"is {positions}, and sequence_length {config.sequence_length}; leave it out, or raise it",
        )


def explain_rope_key(model: ModelConfig, key: str) -> str:
    """Return what to write in the place of a key of OLD_ROPE_KEYS that transformers 5 does not know."""
    settings: dict[str, JsonValue] = {"rope_type": "default", "rope_theta": model.overrides.get("rope_theta", 10000)}
    scaling = model.overrides.get("rope_scaling")
    if isinstance(scaling, dict):
        settings |= {"rope_type" if name == "type" else name: value for name, value in scaling.items()}
    written = ", ".join(f"{name}: {value}" for name, value in settings.items())
    return (
        f"model.overrides.{key} is no key of transformers 5, which has all settings of rotary positions in one: write "
        f"rope_parameters: {{{written}}}"
    )


def _problem(key: str, text: str) -> Problem:
    return Problem(("model", "overrides", key), f"model.overrides.{key} {text}")
