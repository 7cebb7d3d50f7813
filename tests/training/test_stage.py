"""The stage `train` through executors: the same numbers in process and on Ray, and what the driver does on SIGTERM."""

import os
import re
import signal
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from cluster.executor import Executor, Rank
from cluster.host.files import sha256_of
from cluster.inline import InlineExecutor
from cluster.machines import GIB, Node
from cluster.members import place_pool
from cluster.placement import Placement
from configs.base import Artifact, StartUpError
from configs.pools import PoolConfig
from data_prep.manifests import Certificate, TrainedTokenizer
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL
from tests.training.ranks import CADENCE, VOCAB, run_ranks, tiny_config, tiny_corpus
from tests.training.trials import before_step
from training.allocation.known_links import Link
from training.allocation.known_times import KnownTimes, Setting, describe_model, keep
from training.checkpoint.directory import load_weights
from training.job import Job
from training.log.metrics_file import METRICS_FILE, read_metrics
from training.log.sessions_file import GangStart, SessionEnd, read_session_events
from training.loop import stop_requests
from training.speeds import DeviceSpeed
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


@dataclass
class NoRanks:
    """An executor that lays a pool of two members out on this machine, and starts nothing."""

    used_placement: Placement | None = None

    def placement(self) -> Placement:
        members = [{}, {"emulated_seconds_per_sequence": 9.0}]
        shared = {"device": "cpu", "num_ranks": 2, "cpus_per_rank": 1, "zero_stage": 1}
        pool = PoolConfig.model_validate({"members": members} | shared)
        here = Node(socket.gethostname(), 8, 0, 32 * GIB, id="here")
        return place_pool(pool, [[here], [here]], wandb=None)

    def gang(self, *given: Any, **named: Any) -> NoReturn:
        raise InterruptedError


class FastOnesGone(NoRanks):
    """After the first look the machine of the first member is gone, and its ranks do not start."""

    looks = 0

    def placement(self) -> Placement:
        self.looks += 1
        found = super().placement()
        if self.looks == 1:
            return found
        first, second = found.members
        return replace(found, num_ranks=2, members=(replace(first, num_ranks=0, num_expected=2), second))

    def gang(self, fn: Any, job: Job, **named: Any) -> NoReturn:
        if self.looks == 1:
            raise StartUpError("places did not become free")
        raise InterruptedError(str([one.num_ranks for one in job.placement.members]))


def keep_times(store: Path, emulated: float) -> None:
    setting = Setting(
        model=describe_model(tiny_config(), vocab_size=VOCAB),
        attention="sdpa",
        recomputes=False,
        compiled=False,
        gathers=False,
        most=5,
        device="x86_64 CPU",
        host=socket.gethostname(),
        threads=1,
        cpu_share=1.0,
        cores=1.0,
        emulated=emulated,
        versions=(),
    )
    speed = DeviceSpeed(kind="", device="x86_64 CPU", pass_seconds=tuple(n * (0.01 + emulated) for n in range(1, 6)))
    keep(store, f"{setting.key}.json", KnownTimes(setting=setting, speed=speed, communication=0.0))


def keep_times_that_leave_the_second_out(store: Path) -> None:
    for emulated in (0.0, 9.0):
        keep_times(store, emulated)
    names: dict[str, Any] = {"devices": ("x86_64 CPU",), "num_ranks": 4, "num_hosts": 1}
    link = Link(**names, hosts=(socket.gethostname(),), alpha_seconds=0.01, bytes_per_second=1e9)
    keep(store, link.file_name, link)


def test_members_that_the_times_in_the_store_leave_out_are_told_of_when_training_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(name: str) -> Placement:
        executor = NoRanks()
        with pytest.raises(InterruptedError):
            run_stage(tmp_path, name, executor)  # type: ignore[arg-type]
        assert executor.used_placement is not None
        return executor.used_placement

    assert start("unknown").num_ranks == 4 and "takes no part" not in capsys.readouterr().err
    keep_times_that_leave_the_second_out(tmp_path)
    settled = start("known")
    assert settled.num_ranks == 2 and settled.members[1].num_ranks == 0
    assert settled.members[1].left_out.startswith("the step takes ")
    assert f"  training: member 2 takes no part: {settled.members[1].left_out}\n" in capsys.readouterr().err


def test_members_that_were_left_out_take_the_place_of_those_that_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_times_that_leave_the_second_out(tmp_path)
    with pytest.raises(InterruptedError, match=re.escape("[0, 2]")):
        run_stage(tmp_path, "gone", FastOnesGone())  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "places did not become free; it goes on with member 2, which took no part before\n" in said


def test_an_error_of_the_start_stays_where_nobody_was_left_out(tmp_path: Path) -> None:
    with pytest.raises(StartUpError, match="places did not become free"):
        run_stage(tmp_path, "gone", FastOnesGone())  # type: ignore[arg-type]
