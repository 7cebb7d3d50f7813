"""What no model of a recipe may be, whatever its architecture. Imports nothing heavy.

training/sizing/model_check.py asks this when a recipe is read, training/network/build_model.py when a model is built.
"""

from collections.abc import Iterator

from pydantic import JsonValue

from configs.load import Problem
from configs.training.model import ModelConfig
from configs.training.train import TrainConfig

OLD_ROPE_KEYS = ("rope_theta", "rope_scaling")
"""Keys of configurations before transformers 5."""

_ATTENTION_DEVICES = {"flex_attention": ("cuda", "xpu")}
"""The types of device that an implementation of attention has kernels for, where it is not CUDA alone."""


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
    rows, positions = given.get("vocab_size"), given.get("max_position_embeddings")
    if vocab_size is not None and isinstance(rows, int) and rows < vocab_size:
        yield _problem("vocab_size", f"is {rows}, but the tokenizer has {vocab_size}; leave it out")
    if isinstance(positions, int) and positions < config.sequence_length:
        yield _problem(
            "max_position_embeddings",
            f"is {positions}, and sequence_length {config.sequence_length}; leave it out, or raise it",
        )


MIN_CAPABILITY = {"flash_attention_3": (9, 0), "flash_attention_2": (8, 0), "varlen": (8, 0)}
"""The least compute capability of NVIDIA's GPUs that the kernels are made for: 8.0 is A100, 9.0 H100."""


def why_attention_never_runs(
    name: str, *, device: str, precision: str, capability: tuple[int, int] | None
) -> str | None:
    """Return why an implementation of attention has no kernel for a type of device or a precision; None if it may.

    `capability` is the compute capability of NVIDIA's GPU, None if that is not known.
    """
    if name in ("auto", "sdpa", "eager"):
        return None
    if device not in _ATTENTION_DEVICES.get(name, ("cuda",)):
        return "needs a GPU"
    if precision != "bf16" and name != "flex_attention":
        return "needs precision: bf16"
    if capability is not None and capability < MIN_CAPABILITY.get(name, (0, 0)):
        return "is not made for this GPU"
    return None


def refuse_attention(reasons: str) -> str:
    """Return the sentence for an implementation of attention that a pool names and that cannot be used."""
    return f"the pool's attention cannot be used: {reasons}; choose another, or `auto`"


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
