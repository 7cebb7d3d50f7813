"""Measure how fast a core reads batches, and how long any place of the order takes to find, in corpora of any size.

    python benchmarks/batch_speed.py [--tokens 1e4 1e6 1e9 1e12] [--sequence-length 2048]

The corpora are files with holes, of 64 streams: they have the size of so many tokens and take no disk. It prints a JSON
line for each: millions of tokens a second in batches of 64 sequences, one after the other, and the longest of 50 reads
of one sequence at places all over the first epoch, each in the milliseconds from its number to its tokens.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.base import Artifact
from configs.training.train import TrainConfig
from data_prep.manifests import Segment, TokenizedCorpus, TokenShard
from training.data.batches import Batches
from training.data.passes import even_plan

NUM_STREAMS, BATCH, VOCAB = 64, 64, 32_000
SHARD_TOKENS = 2 * 10**9


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=float, nargs="+", default=[1e4, 1e6, 1e9, 1e12])
    parser.add_argument("--sequence-length", type=int, default=2048)
    given = parser.parse_args()
    for number in given.tokens:
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps(measure(int(number), given.sequence_length, Path(directory))))


def measure(num_tokens: int, sequence_length: int, directory: Path) -> dict[str, float]:
    """Return what a corpus of so many tokens takes."""
    length = min(sequence_length, num_tokens // NUM_STREAMS // 4)
    batches = Batches(corpus_of(directory, num_tokens), config_of(length))
    num_samples = num_tokens // length
    chosen = random.Random(0)
    longest = 0.0
    for _ in range(50):
        place = chosen.randrange(num_samples)
        start = time.perf_counter()
        read(batches, place, 1)
        longest = max(longest, time.perf_counter() - start)
    start, place, tokens = time.perf_counter(), 0, 0
    while time.perf_counter() - start < 3:
        tokens += read(batches, place % num_samples, BATCH)
        place += BATCH
    rate = tokens / (time.perf_counter() - start)
    return {
        "tokens": num_tokens,
        "sequence_length": length,
        "million_tokens_per_second": round(rate / 1e6, 1),
        "longest_ms": round(longest * 1e3, 2),
    }


def read(batches: Batches, place: int, number: int) -> int:
    """Read samples from a place on; return their tokens."""
    batch = batches.batch((range(place, place + number),))
    plan = even_plan(len(batch.stream), 1, size=number)
    return sum(int(micro.lengths.sum()) for micro in batches.micro_batches(batch, plan, rank=0))


def config_of(sequence_length: int) -> TrainConfig:
    """Return settings of a training with this length."""
    return TrainConfig.model_validate(
        {
            "model": {"hidden_size": 64, "intermediate_size": 64, "num_layers": 1, "num_attention_heads": 1},
            "sequence_length": sequence_length,
            "global_batch_size": 1,
            "num_steps": 1,
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"kind": "cosine", "num_warmup_steps": 1},
        }
    )


def corpus_of(directory: Path, num_tokens: int) -> Artifact[TokenizedCorpus]:
    """Make the files of a corpus, with nothing in them."""
    shards = []
    for stream in range(NUM_STREAMS):
        left, number = num_tokens // NUM_STREAMS, 0
        while left > 0:
            path, tokens = f"s{stream}-{number}", min(left, SHARD_TOKENS)
            with (directory / f"{path}.bin").open("wb") as file:
                file.truncate(tokens * 2)
            segment = Segment(language=f"l{stream}", num_documents=1, num_tokens=tokens, num_bytes=4 * tokens)
            shards.append(TokenShard(path=path, source="web", segments=(segment,)))
            left, number = left - tokens, number + 1
    manifest = TokenizedCorpus(shards=tuple(shards), vocab_size=VOCAB, eos_id=1, unigram_entropy=5.0)
    return Artifact(directory, manifest)


if __name__ == "__main__":
    main()
