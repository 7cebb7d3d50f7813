"""The transformers configuration of a recipe's model. No model of transformers is imported."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configs.base import UserError
from configs.training.train import TrainConfig
from training.network.model_rules import OLD_ROPE_KEYS, explain_rope_key, find_rule_problems


def make_model_config(
    config: TrainConfig, *, vocab_size: int, eos_id: int, pad_id: int | None, bos_id: int | None = None
) -> PretrainedConfig:
    """Make the transformers configuration. Raises UserError on an architecture or a key that transformers lacks.

    Without a piece that begins a text, the one that ends a text stands before the next, and so begins it.
    """
    model = config.model
    for problem in find_rule_problems(config, vocab_size=vocab_size):
        raise UserError(problem.message)
    if model.architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        close = get_close_matches(model.architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=3)
        raise UserError(
            f"model.architecture is {model.architecture!r}, which transformers has no causal language model for"
            + (f"; did you mean {' or '.join(close)}?" if close else "; see its list of model types")
        )
    keys = {
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads or model.num_attention_heads,
        "tie_word_embeddings": model.tie_word_embeddings,
        "max_position_embeddings": config.sequence_length,
        "bos_token_id": eos_id if bos_id is None else bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
    } | model.overrides
    try:
        result: PretrainedConfig = AutoConfig.for_model(model.architecture, **keys)
        known = set(type(result)().to_dict()) | set(type(result).attribute_map)
    except (TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        raise UserError(f"transformers refuses the model of this recipe: {' '.join(str(error).split())}") from error
    if unknown := sorted(model.overrides.keys() - known):
        if unknown[0] in OLD_ROPE_KEYS and "rope_parameters" in known:
            raise UserError(explain_rope_key(model, unknown[0]))
        close = get_close_matches(unknown[0], known, n=3)
        raise UserError(
            f"model.overrides.{unknown[0]} is no key of {model.architecture}'s configuration"
            + (f"; did you mean {' or '.join(close)}?" if close else "")
        )
    _check_fields(config, known)
    return result


def explain_unknown_word(config: PretrainedConfig, error: Exception) -> str | None:
    """Return a sentence about a word in a configuration that transformers looked up and does not have.

    All that it raises is a KeyError of the word. None where the configuration does not show which key it stands at.
    """
    word = error.args[0] if isinstance(error, KeyError) and error.args else None
    found = [key for key, value in _leaves(config.to_dict()) if value == word]
    if not isinstance(word, str) or not found:
        return None
    known = ["default", *ROPE_INIT_FUNCTIONS] if found[0].endswith("rope_type") else list(ACT2FN)
    close = get_close_matches(word, known, n=3)
    return (
        f"model.overrides.{found[0]} is {word!r}, which transformers does not have"
        + (f"; did you mean {' or '.join(close)}?" if close else "")
        + f" (it has: {', '.join(sorted(known))})"
    )


def _leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _check_fields(config: TrainConfig, known: set[str]) -> None:
    """Raise UserError on an architecture that would ignore a key of the recipe."""
    given = {"hidden_size", "intermediate_size", "num_attention_heads"}
    given |= {"num_key_value_heads"} if config.model.num_key_value_heads else set()
    if ignored := sorted(given - known):
        raise UserError(
            f"{config.model.architecture}'s configuration has no {ignored[0]}, so that key of the recipe would be "
            "ignored; choose an architecture that has it, such as llama"
        )
