"""The keys of transformers 4 that an exported config.json has beside those of transformers 5."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.hf_files import OLDEST_TRANSFORMERS, old_rope_keys, write_config

YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("config", "old"),
    [
        ({}, {}),
        ({"rope_parameters": None}, {}),
        ({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, {"rope_theta": 5.0, "rope_scaling": None}),
        ({"rope_parameters": {"rope_theta": 5.0} | YARN}, {"rope_theta": 5.0, "rope_scaling": YARN}),
        (
            {"rope_parameters": {"rope_theta": 5.0, "partial_rotary_factor": 0.5}},
            {"rope_theta": 5.0, "partial_rotary_factor": 0.5, "rope_scaling": None},
        ),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 5.0, "partial_rotary_factor": 0.5}},
            {"rotary_emb_base": 5.0, "rotary_pct": 0.5, "rope_scaling": None},
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 5.0} | YARN,
                    "sliding_attention": {"rope_theta": 6.0},
                }
            },
            {"rope_theta": 5.0, "rope_local_base_freq": 6.0, "rope_scaling": YARN},
        ),
    ],
)
def test_rotary_positions_stand_under_their_old_names(config: dict[str, Any], old: dict[str, Any]) -> None:
    assert old_rope_keys(config) == old


def test_the_oldest_version_is_promised_only_for_architectures_that_were_compared(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    written = {"dtype": "bfloat16", "num_local_experts": 4, "transformers_version": "5.99"}
    file.write_text(json.dumps(written | {"model_type": "brand_new"}))
    names = {"num_experts": "num_local_experts", "n_layer": "num_hidden_layers"}
    assert write_config(tmp_path, names=names) == "5.99"
    assert json.loads(file.read_text()) == written | {
        "model_type": "brand_new",
        "num_experts": 4,
        "torch_dtype": "bfloat16",
    }
    file.write_text(json.dumps(written | {"model_type": "llama"}))
    assert write_config(tmp_path, names={}) == OLDEST_TRANSFORMERS
