"""The stage `train` through executors: the same numbers in process and on Ray, and what the driver does on SIGTERM."""

import os
import signal
from pathlib import Path
from typing import Any

from cluster.executor import Executor, Rank
from cluster.host.files import sha256_of
from cluster.inline import InlineExecutor
from configs.base import Artifact
from configs.pools import PoolConfig
from data_prep.manifests import Certificate, TrainedTokenizer
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL
from tests.training.ranks import CADENCE, VOCAB, run_ranks, tiny_config, tiny_corpus
from tests.training.trials import before_step
from training.checkpoint.directory import load_weights
from training.log.metrics_file import METRICS_FILE, read_metrics
from training.log.sessions_file import GangStart, SessionEnd, read_session_events
from training.loop import stop_requests
from training.stage import train

NUM_CPUS = len(os.sched_getaffinity(0))


def tokenizer(directory: Path) -> Artifact[TrainedTokenizer]:
    """Files that a certificate is about; training looks at no more of them."""
    (directory / HUGGING_FACE).mkdir(parents=True, exist_ok=True)
    model, exported = directory / MODEL, directory / HUGGING_FACE / "tokenizer.json"
    for file in (model, exported):
        file.write_text("{}")
    certificate = Certificate(
        num_texts=1, num_languages=1, model_sha256=sha256_of(model), tokenizer_json_sha256=sha256_of(exported)
    )
    manifest = TrainedTokenizer(vocab_size=VOCAB, eos_id=1, pad_id=2, sample_bytes={}, certificate=certificate)
    return Artifact(directory, manifest)


def run_stage(directory: Path, name: str, executor: Executor) -> Path:
    out = directory / name
    out.mkdir(exist_ok=True)
    given = {"tokens": (tiny_corpus(directory / "corpus"),), "tokenizer": tokenizer(directory / "tokenizer")}
    train(tiny_config(), **given, cadence=CADENCE, out=out, executor=executor)
    return out


def in_process(rank: Rank, directory: Path, name: str) -> None:
    run_stage(directory, name, InlineExecutor(PoolConfig(micro_batch_size=2)))


def in_process_and_told_to_stop(rank: Rank, directory: Path, name: str) -> str:
    """The process that runs it all gets SIGTERM before the third step."""
    stop_requests.SECONDS_BETWEEN_POLLS = 0.0  # steps are quicker than its polls for the file would be
    before_step(2, lambda own: os.kill(os.getpid(), signal.SIGTERM))
    try:
        in_process(rank, directory, name)
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'exit_code', None)}"
    return "finished"


def numbers(out: Path) -> list[tuple[Any, ...]]:
    return [(line.step, line.loss, line.gradient_norm, line.nats) for line in read_metrics(out / METRICS_FILE)]


def test_ray_and_this_process_give_identical_numbers(tmp_path: Path, ray_cluster: None) -> None:
    from cluster.ray.executor import RayExecutor

    assert run_ranks(in_process, 1, tmp_path, "inline") == [None]
    pool = PoolConfig(num_ranks=1, cpus_per_rank=NUM_CPUS, micro_batch_size=2, warm_spares=False)
    run_stage(tmp_path, "ray", RayExecutor(pool, address="local"))
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "inline")
    inline, ray = (load_weights(tmp_path / name / "checkpoints" / "step-00000006") for name in ("inline", "ray"))
    assert all((inline[name] == ray[name]).all() for name in inline)


def test_sigterm_to_the_driver_saves_and_the_next_run_goes_on(tmp_path: Path) -> None:
    assert run_ranks(in_process, 1, tmp_path, "calm") == [None]
    assert run_ranks(in_process_and_told_to_stop, 1, tmp_path, "stopped") == ["Stopped 75"]
    steps = len(numbers(tmp_path / "stopped"))
    assert 3 <= steps < 6
    assert (tmp_path / "stopped" / "checkpoints" / f"step-{steps:08d}").is_dir()
    assert run_ranks(in_process, 1, tmp_path, "stopped") == [None]
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "calm")
    events = read_session_events(tmp_path / "stopped")
    assert [event.why for event in events if isinstance(event, SessionEnd)] == ["stopped", "finished"]
    assert [event.step for event in events if isinstance(event, GangStart)] == [0, steps]
