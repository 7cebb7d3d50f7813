"""What is wrong with the model of a recipe, before anything is made: by the table of families, or by transformers.

The table decides in milliseconds for the families of training/sizing/parameter_shapes.py with settings that it knows to
be good or bad. What it does not know transformers decides on the meta device, which takes seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from configs.base import UserError
from configs.load import Problem
from configs.training.model import ModelConfig
from configs.training.train import TrainConfig
from training.network.model_rules import OLD_ROPE_KEYS, explain_rope_key, find_rule_problems
from training.sizing.parameter_shapes import complete_config, is_known_family, known_shapes
from training.zero.config import why_not_frozen

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

_ANY_VOCABULARY = 1024
"""A size of vocabulary where the tokenizer's is not known yet: no shape but the embedding's depends on it."""

_ALIGNED_BYTES = 16
"""A row of an expert's matrix must be a multiple of so many bytes (torch.nn.functional.grouped_mm)."""

_SMALL = 64
"""Width of a model that shows what an architecture does, whatever the recipe's width."""


@dataclass(frozen=True)
class _Key:
    """A key under `overrides` that some families have."""

    families: frozenset[str]
    is_good: Callable[[Any], bool]
    """Whether a value is certainly one that can be trained."""


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_small(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


def _is_positive(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def _is_activation(value: Any) -> bool:
    return value in ("silu", "gelu", "gelu_pytorch_tanh", "relu")


def _is_plain_rope(value: Any) -> bool:
    """Return whether it is an ordinary base of rotary positions."""
    return (
        isinstance(value, dict)
        and {"rope_theta"} <= value.keys() <= {"rope_type", "rope_theta"}
        and value.get("rope_type", "default") == "default"
        and isinstance(value["rope_theta"], int | float)
        and value["rope_theta"] > 0
    )


_LLAMAS = frozenset({"llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma", "qwen3_moe"})
_GEMMA3, _MOE = frozenset({"gemma3_text"}), frozenset({"qwen3_moe"})
_KEYS = {
    "attention_bias": _Key(_LLAMAS - {"mistral", "qwen2"} | _GEMMA3, _is_flag),
    "mlp_bias": _Key(frozenset({"llama"}), _is_flag),
    "head_dim": _Key(frozenset({"llama", "mistral", "qwen3", "gemma", "gemma3_text"}), _is_count),
    "hidden_act": _Key(_LLAMAS, _is_activation),
    "hidden_activation": _Key(_GEMMA3, _is_activation),
    "initializer_range": _Key(_LLAMAS | _GEMMA3, _is_small),
    "rms_norm_eps": _Key(_LLAMAS | _GEMMA3, _is_small),
    "max_position_embeddings": _Key(_LLAMAS | _GEMMA3, _is_count),
    "rope_parameters": _Key(_LLAMAS, _is_plain_rope),
    "sliding_window": _Key(_GEMMA3 | {"mistral"}, _is_count),
    "query_pre_attn_scalar": _Key(_GEMMA3, _is_count),
    "attn_logit_softcapping": _Key(_GEMMA3, _is_positive),
    "final_logit_softcapping": _Key(_GEMMA3, _is_positive),
    "norm_topk_prob": _Key(_MOE, _is_flag),
    "num_experts": _Key(_MOE, _is_count),
    "num_experts_per_tok": _Key(_MOE, _is_count),
    "moe_intermediate_size": _Key(_MOE, _is_count),
    "decoder_sparse_step": _Key(_MOE, _is_count),
}
"""What transformers 5.23 accepts, and trains with, as tests/training/sizing/test_model_check.py tries."""

_ALWAYS_DIVIDED = ("llama", "gemma3_text")
"""Families whose heads must divide the width although each head may have another size."""


def find_table_problems(config: TrainConfig, *, vocab_size: int | None) -> list[Problem]:
    """Return what is wrong with a training's model by rules and the table alone; locations begin in its config.

    `vocab_size` is that of the tokenizer; None if it is not known yet. Imports nothing heavy.
    """
    problems = [*find_rule_problems(config, vocab_size=vocab_size), *_names_elsewhere(config.model)]
    if is_known_family(config.model.architecture):
        problems += list(_key_problems(config.model))
        problems = problems or [*_head_problems(config.model), *_expert_problems(config)]
    return problems or _freeze_problems(config)


def is_settled(config: TrainConfig) -> bool:
    """Return whether the table decides about a model for which it has found no problem."""
    model = config.model
    return is_known_family(model.architecture) and all(
        key in _KEYS and model.architecture in _KEYS[key].families and _KEYS[key].is_good(value)
        for key, value in model.overrides.items()
    )


def check_with_transformers(config: TrainConfig, *, vocab_size: int | None) -> None:
    """Raise UserError if transformers cannot build the model of a training, or it is none that can be trained.

    Nothing has memory, but for a small model of the same architecture. What a configuration alone shows is said before
    anything else of transformers is imported.
    """
    from transformers.utils import logging

    from training.network.model_config import make_model_config

    size, verbosity = vocab_size or _ANY_VOCABULARY, logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of ids of special pieces, which are not the tokenizer's here
    try:
        settings = make_model_config(config, vocab_size=size, eos_id=1, pad_id=2)

        from training.network.build_model import build_model
        from training.network.packed_lm import minds_router
        from training.network.probes import check_architecture

        model, _ = build_model(settings)
        if problem := why_not_frozen([name for name, _ in model.named_parameters()], config.freeze):
            raise UserError(problem)
        try:
            small = make_model_config(_with_small_model(config), vocab_size=_ANY_VOCABULARY, eos_id=1, pad_id=2)
        except UserError:  # its overrides go with the recipe's sizes alone: the start of training probes it
            return
        check_architecture(small, minds_router=minds_router(config.model))
    finally:
        logging.set_verbosity(verbosity)


def _with_small_model(config: TrainConfig) -> TrainConfig:
    heads = 4
    shared = config.model.num_key_value_heads
    sizes = {"hidden_size": _SMALL, "intermediate_size": _SMALL, "num_attention_heads": heads}
    model = config.model.model_copy(update=sizes | {"num_key_value_heads": shared and min(shared, 2)})
    return config.model_copy(update={"model": model})


def _names_elsewhere(model: ModelConfig) -> Iterator[Problem]:
    """Yield keys under `overrides` that would pass over what the recipe says in another place."""
    for key in model.overrides:
        at = ("model", "overrides", key)
        if key in _OWN_NAMES:
            yield Problem(at, f"{'.'.join(at)} is model.{_OWN_NAMES[key]} in a recipe; set that, and leave this out")
        elif key in _OF_THE_TOKENIZER:
            yield Problem(at, f"{'.'.join(at)} follows from the tokenizer; leave it out")


def _key_problems(model: ModelConfig) -> Iterator[Problem]:
    for key in OLD_ROPE_KEYS:
        if key in model.overrides:
            yield Problem(("model", "overrides", key), explain_rope_key(model, key))
    dropout = model.overrides.get("attention_dropout", 0)
    if isinstance(dropout, int | float) and not 0 <= dropout < 1:
        yield Problem(
            ("model", "overrides", "attention_dropout"),
            f"model.overrides.attention_dropout is {dropout}, and must be from 0 to below 1",
        )


def _head_problems(model: ModelConfig) -> Iterator[Problem]:
    width, heads = model.hidden_size, model.num_attention_heads
    has_own = "head_dim" in _own_keys(model)
    given = model.overrides.get("head_dim")
    default = complete_config(model.model_copy(update={"overrides": {}}), 0, 0)["head_dim"]
    derived = given is None and default == width // heads
    if width % heads and (derived or model.architecture in _ALWAYS_DIVIDED):
        remedy = "choose heads that divide it"
        if has_own and model.architecture not in _ALWAYS_DIVIDED:
            remedy += ", or give the size of a head as model.overrides.head_dim"
        yield Problem(
            ("model", "num_attention_heads"),
            f"model.num_attention_heads is {heads}, which does not divide model.hidden_size, {width}; {remedy}",
        )
        return
    size = default if given is None else given
    if isinstance(size, int) and size % 2:
        where = ("model", "num_attention_heads") if given is None else ("model", "overrides", "head_dim")
        yield Problem(
            where,
            f"a head is {size} wide{f' (model.hidden_size {width} / {heads} heads)' if derived else ''}, and rotary "
            "positions need an even width; change it",
        )


def _own_keys(model: ModelConfig) -> set[str]:
    return {key for key, known in _KEYS.items() if model.architecture in known.families}


def _expert_problems(config: TrainConfig) -> Iterator[Problem]:
    model = config.model
    if model.architecture not in _MOE:
        return
    settings = complete_config(model, 0, 0)
    for key in ("num_experts", "num_experts_per_tok", "decoder_sparse_step", "moe_intermediate_size"):
        value = settings[key]
        if not _is_count(value):
            yield Problem(("model", "overrides", key), f"model.overrides.{key} is {value!r}, and must be 1 or more")
            return
    multiple = _ALIGNED_BYTES // (2 if config.precision == "bf16" else 4)
    for key, at in (("moe_intermediate_size", ("model", "overrides")), ("hidden_size", ("model",))):
        if settings[key] % multiple:
            yield Problem(
                (*at, key),
                f"{'.'.join((*at, key))} is {settings[key]}, and PyTorch's product of experts' matrices in "
                f"{config.precision} needs a multiple of {multiple}; choose one",
            )
    if settings["num_experts_per_tok"] > settings["num_experts"]:
        given = "num_experts_per_tok" in model.overrides
        yield Problem(
            ("model", "overrides", "num_experts_per_tok" if given else "num_experts"),
            f"model.overrides.num_experts_per_tok is {settings['num_experts_per_tok']}"
            f"{'' if given else f' in {model.architecture} if left out'}, more than num_experts, "
            f"{settings['num_experts']}",
        )


def _freeze_problems(config: TrainConfig) -> list[Problem]:
    shapes = known_shapes(config.model, vocab_size=_ANY_VOCABULARY) if config.freeze else None
    problem = why_not_frozen(shapes, config.freeze) if shapes else None
    return [Problem(("freeze",), problem)] if problem else []
