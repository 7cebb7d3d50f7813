"""How large the model of a recipe is, and so how it fits on machines."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from cluster.placement import Placement
from configs.training import TrainConfig
from training.sizing.fit import choose, settle
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import Shapes, known_shapes, settings_of


@dataclass(frozen=True)
class Sized:
    """A model's parameters."""

    shapes: Shapes
    """Of every parameter by transformers' name, tied ones once."""

    config: Mapping[str, Any]
    """Its transformers configuration, as far as training/sizing/flops.py reads it."""

    built: bool
    """Whether transformers had to build it, without memory, to count it."""

    @property
    def num_parameters(self) -> int:
        """Elements of all parameters."""
        return sum(map(prod, self.shapes.values()))


def sized(config: TrainConfig, *, vocab_size: int) -> Sized:
    """The model of a recipe. Of another family than those of the table transformers builds it on the meta device,
    which takes seconds. Raises UserError as training.network.build_model does."""
    shapes = known_shapes(config.model, vocab_size=vocab_size)
    if shapes is None:
        return _built(config, vocab_size)
    return Sized(shapes, settings_of(config.model, config.sequence_length, vocab_size), built=False)


def memory_size(found: Sized, config: TrainConfig) -> ModelSize:
    """What training/sizing/memory.py has to know of a model that a recipe trains."""
    given, shapes = found.config, found.shapes
    trained = {name: prod(shape) for name, shape in shapes.items() if not _frozen(name, config.freeze)}
    muon = [size for name, size in trained.items() if config.optimizer.kind == "muon" and _is_inner(name, shapes[name])]
    layers: dict[str, int] = {}
    for name, shape in shapes.items():
        unit = ".".join(name.split(".")[:3]) if ".layers." in name else name
        layers[unit] = layers.get(unit, 0) + prod(shape)
    heads, head_dim = _heads(given)
    return ModelSize(
        num_parameters=found.num_parameters,
        num_trained=sum(trained.values()),
        num_muon=sum(muon),
        largest_muon=max(muon, default=0),
        largest_matrix=max((prod(shapes[name]) for name in trained if len(shapes[name]) > 1), default=0),
        largest_layer=max(layers.values()),
        vocab_size=given["vocab_size"],
        hidden_size=_first(given, "hidden_size", "n_embd", "d_model"),
        ffn_size=_ffn_size(given),
        num_layers=_first(given, "num_hidden_layers", "n_layer", "n_layers"),
        num_heads=heads,
        head_dim=head_dim,
        num_key_value_heads=given.get("num_key_value_heads") or heads,
        num_norms=max(2, sum(len(s) == 1 and "layers.0." in n and "norm" in n for n, s in shapes.items())),
        has_head_norm=any("q_norm" in name for name in shapes),
    )


def settled(placement: Placement, config: TrainConfig, *, vocab_size: int) -> Placement:
    """The placement of a training, with what its pool leaves open chosen as `concord plan` shows it."""
    if not placement.leaves_open:
        return placement
    size = memory_size(sized(config, vocab_size=vocab_size), config)
    return settle(placement, choose(size, config, placement).chosen)


def _built(config: TrainConfig, vocab_size: int) -> Sized:
    import torch
    from transformers import AutoModelForCausalLM

    from training.network.build_model import model_config

    settings = model_config(config, vocab_size=vocab_size, eos_id=1, pad_id=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return Sized(shapes, settings.to_dict(), built=True)


def _frozen(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_inner(name: str, shape: tuple[int, ...]) -> bool:
    """Whether Muon updates it, as training/zero/optimizers.py has it: a matrix, no embedding and no output layer."""
    return len(shape) > 1 and not any(
        word in name for word in ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
    )


def _heads(given: Mapping[str, Any]) -> tuple[int, int]:
    heads = _first(given, "num_attention_heads", "n_head", "n_heads") or 1
    return heads, given.get("head_dim") or _first(given, "hidden_size", "n_embd", "d_model") // heads


def _ffn_size(given: Mapping[str, Any]) -> int:
    """Width that a token passes through in a feed-forward layer: of all experts that work on it."""
    if experts := _first(given, "num_experts_per_tok"):
        return int(experts * (_first(given, "moe_intermediate_size", "intermediate_size") or 0))
    return int(_first(given, "intermediate_size", "n_inner") or 4 * _first(given, "hidden_size", "n_embd", "d_model"))


def _first(given: Mapping[str, Any], *names: str) -> Any:
    return next((given[name] for name in names if given.get(name) is not None), None)
