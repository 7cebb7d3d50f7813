"""Measure what part of a training step waits for its data, with many streams, read ahead and not.

    python benchmarks/data_share.py [--streams 64] [--sequences 64] [--steps 30]

One rank trains on a corpus of `--streams` languages over as many shards, on a CPU. It prints a JSON line: the share of
the step's time that is `data` (waiting for the thread that reads ahead), and the share that it would be if the step
read its rows itself, by the time that the same reading takes on the main thread.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.executor import Rank
from configs.base import Artifact
from data_prep.manifests import Segment, TokenizedCorpus, TokenShard
from data_prep.tokens.megatron_shards import dtype_for, write_shard
from tests.training.ranks import VOCAB, run_ranks, tiny_config, tiny_job
from tests.training.trials import trainer
from training.job import Job
from training.log.metrics_file import METRICS_FILE, read_metrics

LENGTH, WARM_UP = 256, 5
SHAPE = {"hidden_size": 128, "intermediate_size": 352, "num_layers": 2, "num_attention_heads": 4}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=64, help="sequences in a step")
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    config = tiny_config(
        model=SHAPE,
        sequence_length=LENGTH,
        global_batch_size=given.sequences,
        num_steps=given.steps,
        checkpoint_every_steps=10_000,
    )
    with tempfile.TemporaryDirectory() as directory:
        job = tiny_job(Path(directory), config, world_size=1, zero_stage=1, micro_batch_size=16)
        found = run_ranks(measure, 1, replace(job, tokens=corpus(Path(directory) / "many", given.streams)))
    print(json.dumps(vars(given) | found[0]))


def corpus(directory: Path, num_streams: int) -> Artifact[TokenizedCorpus]:
    """A shard of 300 documents for each of many languages."""
    random, shards = np.random.default_rng(0), []
    directory.mkdir(parents=True)
    for number in range(num_streams):
        documents = [[*random.integers(3, VOCAB, size=random.integers(100, 900)).tolist(), 1] for _ in range(300)]
        write_shard(directory / f"s{number}", documents, dtype_for(VOCAB))
        tokens = sum(map(len, documents))
        segment = Segment(language=f"l{number:03}", num_documents=300, num_tokens=tokens, num_bytes=3 * tokens)
        shards.append(TokenShard(path=f"s{number}", source="web", segments=(segment,)))
    manifest = TokenizedCorpus(shards=tuple(shards), vocab_size=VOCAB, eos_id=1, unigram_entropy=5.0)
    return Artifact(directory, manifest)


def measure(rank: Rank, job: Job) -> dict[str, float]:
    """Train, and return the shares of a step."""
    from training.zero.process_group import join_process_group, leave_process_group

    join_process_group(rank, timeout_seconds=600)
    subject = trainer(rank, job)
    seconds = []
    for step in range(20):
        started = time.perf_counter()
        subject.prefetcher._read(subject.state.progress.position.model_copy(update={"next_place": 64 * step}))
        seconds.append(time.perf_counter() - started)
    subject.run()
    leave_process_group()
    lines = read_metrics(job.out / METRICS_FILE)[WARM_UP:]
    step_seconds = median(sum(line.seconds.values()) for line in lines)
    return {
        "step_seconds": round(step_seconds, 4),
        "data_percent": round(100 * median(line.seconds["data"] for line in lines) / step_seconds, 3),
        "data_percent_if_read_in_the_step": round(100 * median(seconds) / step_seconds, 3),
    }


if __name__ == "__main__":
    main()
