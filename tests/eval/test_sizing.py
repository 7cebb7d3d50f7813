"""Scoring takes no more memory than was reckoned, nor than training the same model, also with a large vocabulary."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.training.train import TrainConfig
from eval.sizing import scoring_bytes
from training.sizing.recipe_size import find_parameters, measure_model

ROOT = Path(__file__).parents[2]
MODEL = {"hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "num_attention_heads": 2}
PEAK = """
import json, resource, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from eval.likelihood import Scorer, Targets
torch.set_num_threads(1)
given = json.loads(sys.argv[1])
config = LlamaConfig(max_position_embeddings=512, tie_word_embeddings=True, **given)
model = LlamaForCausalLM(config).eval()
Scorer(model).score([Targets(list(range(513)), 1)] * 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def config() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": MODEL | {"tie_word_embeddings": True},
            "sequence_length": 512,
            "global_batch_size": 8,
            "num_steps": 2,
            "precision": "fp32",
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"kind": "cosine", "num_warmup_steps": 1},
        }
    )


@pytest.mark.parametrize("vocab_size", [8192, 262_144])
def test_scoring_takes_no_more_than_was_reckoned(vocab_size: int) -> None:
    size = measure_model(find_parameters(config(), vocab_size=vocab_size), config())
    reckoned = scoring_bytes(size, "cpu", sequence_length=512)
    sizes = {"vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 128}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    command = [sys.executable, "-c", PEAK, json.dumps(sizes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) <= 1.15 * reckoned
    # logits of one batch alone, which lm-eval's own model makes twice over, would be more
    assert vocab_size < 100_000 or reckoned < 4096 * vocab_size * 4
