"""Measures the model of a recipe, and chooses what its pool leaves open so that training it fits."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from cluster.placement import Placement
from configs.training.train import TrainConfig
from training.sizing.fit import apply_choice, choose_layout
from training.sizing.flops import first_value
from training.sizing.members import choose_members
from training.sizing.model_size import ModelSize
from training.sizing.parameter_shapes import EMBEDDING, OUTPUT, ModelParameters, complete_config, known_shapes
from training.zero.config import is_frozen, is_updated_by_muon


def find_parameters(config: TrainConfig, *, vocab_size: int) -> ModelParameters:
    """Find the parameters of a recipe's model without memory for them.

    A model of a family that training/sizing/parameter_shapes.py does not know is built by transformers on the meta
    device, which takes seconds. Raises UserError as training/network/build_model.py does.
    """
    shapes = known_shapes(config.model, vocab_size=vocab_size)
    if shapes is None:
        return _build_on_meta_device(config, vocab_size)
    settings = complete_config(config.model, config.sequence_length, vocab_size)
    return ModelParameters(shapes, frozenset({EMBEDDING, OUTPUT}), settings, built=False)


def measure_model(found: ModelParameters, config: TrainConfig) -> ModelSize:
    """Measure the parameters that a recipe trains, for training/sizing/memory.py."""
    given, shapes = found.config, found.shapes
    trained = {name: prod(shape) for name, shape in shapes.items() if not is_frozen(name, config.freeze)}
    muon = [
        shapes[name]
        for name in trained
        if config.optimizer.kind == "muon"
        and is_updated_by_muon(shapes[name], is_embedding_or_output=name in found.embedding_and_output)
    ]
    of_shape: Counter[tuple[int, ...]] = Counter()
    for shape in muon:
        of_shape[shape[-2:]] += prod(shape)
    layers: dict[str, int] = {}
    for name, shape in shapes.items():
        unit = ".".join(name.split(".")[:3]) if ".layers." in name else name
        layers[unit] = layers.get(unit, 0) + prod(shape)
    heads, head_dim = _heads(given)
    return ModelSize(
        num_parameters=found.num_parameters,
        num_trained=sum(trained.values()),
        num_muon=sum(map(prod, muon)),
        num_averaged=0 if config.ema is None else sum(trained.values()),
        largest_muon=max(map(prod, muon), default=0),
        largest_muon_matrix=max(map(prod, of_shape), default=0),
        muon_of_one_shape=max(of_shape.values(), default=0),
        largest_matrix=max((prod(shapes[name]) for name in trained if len(shapes[name]) > 1), default=0),
        largest_layer=max(layers.values()),
        vocab_size=given["vocab_size"],
        hidden_size=first_value(given, "hidden_size", "n_embd", "d_model"),
        ffn_size=_ffn_size(given),
        num_layers=first_value(given, "num_hidden_layers", "n_layer", "n_layers"),
        num_heads=heads,
        head_dim=head_dim,
        num_key_value_heads=given.get("num_key_value_heads") or heads,
        num_norms=max(2, sum(len(s) == 1 and "layers.0." in n and "norm" in n for n, s in shapes.items())),
        has_head_norm=any("q_norm" in name for name in shapes),
    )


def settle_placement(placement: Placement, config: TrainConfig, *, vocab_size: int, store: Path | None) -> Placement:
    """Return the placement of a training, with what its pool leaves open chosen as `concord plan` shows it.

    Of a pool with members each gets the most sequences of a pass, and those that would slow the step are left out, by
    what passes took where the directory `store` has that.
    """
    if not placement.leaves_open and not placement.members:
        return placement
    model = find_parameters(config, vocab_size=vocab_size)
    size = measure_model(model, config)
    if placement.members:
        return choose_members(model, size, config, placement, store=store).placement
    return apply_choice(placement, choose_layout(size, config, placement).chosen)


def _build_on_meta_device(config: TrainConfig, vocab_size: int) -> ModelParameters:
    import torch
    from transformers import AutoModelForCausalLM

    from training.network.model_config import make_model_config
    from training.zero.optimizers import find_embedding_and_output

    settings = make_model_config(config, vocab_size=vocab_size, eos_id=1, pad_id=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return ModelParameters(shapes, frozenset(find_embedding_and_output(model)), settings.to_dict(), built=True)


def _heads(given: Mapping[str, Any]) -> tuple[int, int]:
    heads = first_value(given, "num_attention_heads", "n_head", "n_heads") or 1
    return heads, given.get("head_dim") or first_value(given, "hidden_size", "n_embd", "d_model") // heads


def _ffn_size(given: Mapping[str, Any]) -> int:
    """Return the width that a token passes through in a feed-forward layer, summed over the experts it goes to."""
    if experts := first_value(given, "num_experts_per_tok"):
        return int(experts * (first_value(given, "moe_intermediate_size", "intermediate_size") or 0))
    hidden = first_value(given, "hidden_size", "n_embd", "d_model")
    return int(first_value(given, "intermediate_size", "n_inner") or 4 * hidden)
