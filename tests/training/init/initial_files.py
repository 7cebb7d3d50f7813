"""What training may start from, in small: tokenizers, checkpoints, artifacts."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel

from cluster.host.files import write_text
from configs.data.stages import TrainTokenizerConfig
from data_prep.tokenizer.hf_export import export_hugging_face
from data_prep.tokenizer.sentencepiece_model import train_sentencepiece
from training.checkpoint import rank_file
from training.checkpoint.directory import MODEL_CONFIG, commit_checkpoint, partial_directory
from training.checkpoint.fragment_index import make_index
from training.records import CheckpointRecord, OrderRecord, Position

RIVERS = ["the river runs to the sea", "the sea is wide and the river is long", "über der Straße, ça va?"] * 5
STARS = ["the star shines on the sea", "stars and the light of stars 星", "the starlight is long"] * 5

RECORD = CheckpointRecord(
    step=1,
    num_updates=1,
    num_tokens=1,
    tokens_read={},
    position=Position(),
    order=OrderRecord(seed=0, sequence_length=8, streams=(), phases=(), tokens="tokenize-1"),
    global_batch_size=1,
    num_rollbacks=0,
    loss=1.0,
    world_size=1,
    zero_stage=0,
    shapes={},
    files={},
)


def our_own(directory: Path, lines: list[str], vocab_size: int) -> Path:
    export_hugging_face(train_sentencepiece(lines, TrainTokenizerConfig(vocab_size=vocab_size)), directory)
    return directory


def save(tokenizer: Tokenizer, directory: Path, **settings: Any) -> Path:
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def byte_level(directory: Path, lines: list[str]) -> Path:
    """Like those of GPT-2 and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|end|>", "<|pad|>"]
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special)
    )
    return save(tokenizer, directory, eos_token="<|end|>", pad_token={"content": "<|pad|>"})


def save_checkpoint(directory: Path, model: PreTrainedModel) -> Path:
    """A checkpoint of ours, written by two ranks with half of each parameter each."""
    gathering = partial_directory(directory, "0")
    gathering.mkdir(parents=True)
    flat = {name: parameter.detach().flatten() for name, parameter in model.named_parameters()}
    for rank in range(2):
        parts = {
            rank_file.key("master", name, values.numel() // 2 * rank): torch.tensor_split(
                values, [values.numel() // 2]
            )[rank]
            for name, values in flat.items()
        }
        entries = rank_file.layout((key, part.dtype, part.numel()) for key, part in parts.items())
        data = torch.cat([parts[entry.key] for entry in entries]).view(torch.uint8)
        rank_file.write(gathering / rank_file.file_stem(rank, 2), entries, data, on_progress=lambda: None)
    write_text(gathering / MODEL_CONFIG, model.config.to_json_string())
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    record = RECORD.model_copy(update={"world_size": 2, "shapes": shapes})
    commit_checkpoint(gathering, directory, record, make_index(gathering, world_size=2))
    return directory


def save_record(directory: Path, stage: str, *, tokenizer: str = "", **manifest: str) -> Path:
    """Make a directory a finished artifact, of what is read of its record."""
    inputs = {"tokenizer": {"artifact": tokenizer, "fingerprint": "f" * 64}} if tokenizer else {}
    record = {"stage": stage, "fingerprint": directory.name * 8, "inputs": inputs, "manifest": manifest}
    write_text(directory / "record.json", json.dumps(record))
    return directory
