"""Several ranks on this machine, each a fresh process, and a small job for them."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np

from cluster.executor import Rank
from cluster.host.network import free_port
from cluster.leases.fence import fence_of
from cluster.machines import Node
from cluster.members import place_pool
from configs.base import Artifact
from configs.pools import PoolConfig
from configs.training.train import CadenceConfig, TrainConfig
from data_prep.manifests import Certificate, Segment, TokenizedCorpus, TokenShard, TrainedTokenizer
from data_prep.tokens.megatron_shards import dtype_for, write_shard
from training.job import Job
from training.log.sessions_file import record_session_start

VOCAB = 320
GRACE_SECONDS = 10
CADENCE = CadenceConfig()


def run_ranks(fn: Callable[..., Any], world_size: int, *args: Any, members: Sequence[int] = ()) -> list[Any]:
    """`fn(rank, *args)` on each rank; results in rank order, or the exit code of a rank that gave none.

    `members` are those of the pool which the ranks are of.
    """
    context = _context()
    port = free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    world = world_size, "cpu", 1, "127.0.0.1", port
    of = members or [0] * world_size
    ranks = [Rank(i, *world, num_restarts=0, member=of[i]) for i in range(world_size)]
    processes = [
        context.Process(target=_enter, args=(fn, rank, send, args))
        for rank, (_, send) in zip(ranks, pipes, strict=True)
    ]
    for process, (_, send) in zip(processes, pipes, strict=True):
        process.start()
        send.close()
    waiting = {process.sentinel: process for process in processes}
    results: list[Any] = [None] * world_size
    while waiting:
        for ready in connection.wait([*waiting, *(receive for receive, _ in pipes if not receive.closed)]):
            if ready in waiting:
                gone = waiting.pop(ready)
                gone.join()
                if gone.exitcode != 0:  # the others may wait for it in a collective for ever
                    _end(list(waiting.values()))
        for number, (receive, _) in enumerate(pipes):
            results[number] = results[number] or _receive(receive)
    return [
        process.exitcode if result is None else result[0] for process, result in zip(processes, results, strict=True)
    ]


@cache
def _context() -> Any:
    """Ranks are forked off a process that has the libraries loaded and has done nothing with them."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.rank_libraries"])
    return context


def _enter(fn: Callable[..., Any], rank: Rank, send: Any, args: tuple[Any, ...]) -> None:
    os.environ.update(rank.environment())
    send.send((fn(rank, *args),))


def _receive(receive: Any) -> Any:
    try:
        return None if receive.closed or not receive.poll() else receive.recv()
    except EOFError:
        receive.close()
        return None


def _end(processes: list[Any]) -> None:
    for process in processes:
        process.join(timeout=GRACE_SECONDS)
        process.kill()


MIXTURE_OF_EXPERTS = {
    "architecture": "qwen3_moe",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_layers": 2,
    "num_attention_heads": 3,
    "overrides": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
"""A model for tiny_config whose experts no even number of ranks divides."""


def tiny_config(**changes: Any) -> TrainConfig:
    """A model of some thousand parameters, of sizes that no world size divides."""
    settings: dict[str, Any] = {
        "model": {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_layers": 2,
            "num_attention_heads": 3,
            "tie_word_embeddings": True,
        },
        "sequence_length": 16,
        "global_batch_size": 5,
        "num_steps": 6,
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"kind": "cosine", "num_warmup_steps": 2},
        "precision": "fp32",
        "checkpoint_every_steps": 2,
    }
    return TrainConfig.model_validate(settings | changes)


def tiny_corpus(directory: Path) -> Artifact[TokenizedCorpus]:
    """Two shards, two sources, three languages; repetitive, so that a model learns it."""
    random = np.random.default_rng(0)
    shards = []
    for name, source, languages in (("a", "web", ["de", "sw"]), ("b", "web", ["sw"]), ("c", "science", ["en"])):
        documents, segments = [], []
        for language in languages:
            own = [
                [*(3 + random.integers(0, 40, size=random.integers(5, 60)) ** 2 % 300).tolist(), 1] for _ in range(9)
            ]
            documents += own
            tokens = sum(map(len, own))
            segments.append(Segment(language=language, num_documents=9, num_tokens=tokens, num_bytes=3 * tokens))
        write_shard(directory / name, documents, dtype_for(VOCAB))
        shards.append(TokenShard(path=name, source=source, segments=tuple(segments)))
    manifest = TokenizedCorpus(
        shards=tuple(shards),
        validation=(_held_out(directory, "web", ["de", "sw"]), _held_out(directory, "science", ["en"])),
        vocab_size=VOCAB,
        eos_id=1,
        unigram_entropy=3.5,
    )
    return Artifact(directory, manifest)


def _held_out(directory: Path, source: str, languages: list[str]) -> TokenShard:
    """Three documents of each language, of 20 tokens, which are as they come: what is learned is of no use for them."""
    random = np.random.default_rng(len(source))
    documents = [[*(3 + random.integers(0, 300, size=19)).tolist(), 1] for _ in range(3 * len(languages))]
    write_shard(directory / f"held-{source}", documents, dtype_for(VOCAB))
    segments = [Segment(language=name, num_documents=3, num_tokens=60, num_bytes=180) for name in languages]
    return TokenShard(path=f"held-{source}", source=source, segments=tuple(segments))


def tiny_job(
    directory: Path,
    config: TrainConfig,
    *,
    world_size: int,
    zero_stage: int,
    name: str = "out",
    cadence: CadenceConfig = CADENCE,
    **pool_settings: Any,
) -> Job:
    """A job on the tiny corpus; the same `directory` gives the same corpus."""
    (directory / name).mkdir(parents=True, exist_ok=True)
    certificate = Certificate(num_texts=0, num_languages=0, model_sha256="", tokenizer_json_sha256="")
    tokenizer = TrainedTokenizer(vocab_size=VOCAB, eos_id=1, pad_id=2, sample_bytes={}, certificate=certificate)
    own = {"num_ranks": world_size, "micro_batch_size": 2} | pool_settings
    pool = PoolConfig.model_validate({"cpus_per_rank": 1, "zero_stage": zero_stage} | own)
    nodes = [[Node("host", world_size, 0, memory_bytes=2**33)]] * len(pool.kinds())
    placement = place_pool(pool, nodes, wandb=None)
    corpus = tiny_corpus(directory / "corpus")
    out = directory / name
    artifact = Artifact(directory, tokenizer)
    return Job(config, corpus, artifact, out, placement, record_session_start(out), fence_of(out), cadence)
