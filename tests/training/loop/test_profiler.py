"""A profile has the steps asked for, under the names of their parts, whole or not at all, and changes no number."""

import gzip
import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.executor import Rank
from configs.training.train import CadenceConfig
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, train_all, train_and_find, train_with_poison, trajectory, weights
from training.job import Job
from training.loop import profiler
from training.loop.profiler import MAX_TRACES, recording_ranks, write_trace
from training.loop.step_log import NOT_USEFUL
from training.loop.stop_requests import RESIZE_FILE

PARTS = {"data", "forward", "backward", "communication", "optimizer"}


def asking(*steps: int) -> CadenceConfig:
    return CadenceConfig(profile_steps=(steps[0], steps[-1]))


def traces(job: Job) -> list[str]:
    return sorted(path.name for path in (job.out / "profile").glob("*"))


def labels(job: Job, name: str) -> set[str]:
    """What a trace has beside single operations."""
    events = json.loads(gzip.decompress((job.out / "profile" / name).read_bytes()))["traceEvents"]
    assert any(event.get("cat") == "cpu_op" for event in events)
    return {event["name"] for event in events if event.get("cat") == "user_annotation"}


def notices(job: Job) -> str:
    """Those about profiles: each start also says which attention it takes, and what it validates on."""
    path = job.out / "notices.txt"
    told = path.read_text().splitlines(keepends=True) if path.exists() else []
    return "".join(line for line in told if not line.startswith(("attention: ", "validation ")))


def test_a_profile_has_the_steps_asked_for_and_changes_no_number(tmp_path):
    config = tiny_config(num_steps=4)
    jobs = [
        tiny_job(tmp_path, config, world_size=2, zero_stage=3, name=name, cadence=cadence)
        for name, cadence in (("plain", CadenceConfig()), ("profiled", asking(2, 3)), ("last", asking(4)))
    ]
    assert run_ranks(train_all, 2, jobs) == [None, None]
    plain, profiled, last = jobs
    assert [traces(job) for job in jobs] == [[], ["steps-2-3-rank-0.json.gz"], ["steps-4-4-rank-0.json.gz"]]
    found = labels(profiled, "steps-2-3-rank-0.json.gz")
    assert found >= PARTS
    assert {label for label in found if label.startswith("step ")} == {"step 2", "step 3"}
    assert "step 4" in labels(last, "steps-4-4-rank-0.json.gz")
    path = profiled.out / "profile" / "steps-2-3-rank-0.json.gz"
    assert f"rank 0 has profiled steps 2 to 3: {path}" in notices(profiled)
    assert ["profile" in line.seconds for line in lines(profiled)] == [False, True, False, True]
    for line in lines(profiled):
        working = sum(seconds for part, seconds in line.seconds.items() if part not in NOT_USEFUL)
        assert sum(line.targets.values()) / line.tokens_per_second == pytest.approx(working, rel=0.3, abs=0.01)
    for job in (profiled, last):
        assert trajectory(job) == trajectory(plain)
        reference = weights(plain, 4)
        assert all(torch.equal(tensor, reference[name]) for name, tensor in weights(job, 4).items())


def test_a_training_that_goes_on_records_what_is_left_of_the_steps_or_says_that_nothing_is(tmp_path):
    job = tiny_job(tmp_path, tiny_config(), world_size=1, zero_stage=1, cadence=asking(3, 5))
    (said,) = run_ranks(train_and_find, 1, job, 2, job.out / RESIZE_FILE, "")
    assert said.startswith("Resized: stopped after step 4")
    assert traces(job) == [], "steps 3 and 4 are dropped"
    assert run_ranks(train_all, 1, [job, job, replace(job, cadence=asking(1, 2))]) == [None]
    assert traces(job) == ["steps-5-5-rank-0.json.gz"]
    first, profiled, last = notices(job).splitlines()
    assert first == "of steps 3 to 5 only those after step 4 are profiled, since training goes on after step 4"
    assert "step 5" in profiled
    assert last == "steps 1 to 2 are not profiled, since training goes on after step 6; give --profile later ones"


def test_a_roll_back_in_the_middle_drops_what_was_recorded_and_the_steps_are_recorded_anew(tmp_path):
    config = tiny_config(num_steps=8, stability={"spikes": None, "max_skipped_steps": 0})
    job = tiny_job(tmp_path, config, world_size=1, zero_stage=1, cadence=asking(2, 5))
    batch = config.global_batch_size
    assert run_ranks(train_with_poison, 1, [job], {3 * batch: "loss"}) == [None]
    assert "rolled back from step 4 to step 2" in notices(job)
    assert traces(job) == ["steps-3-5-rank-0.json.gz"]
    assert labels(job, "steps-3-5-rank-0.json.gz") >= {"step 3", "step 4", "step 5"}


def write_without_room(rank: Rank, path: Path) -> tuple[str, list[str]]:
    """Write a trace where no file can be larger than some kilobytes; what is raised, and what is there after it."""
    recorded = torch.profiler.profile()
    recorded.start()
    for _ in range(1000):
        torch.zeros(1).add_(1)
    recorded.stop()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        write_trace(recorded, path)
    except OSError as error:
        return str(error), [file.name for file in path.parent.glob("*")]
    return "written", []


def train_without_a_place_for_scratch(rank: Rank, job: Job) -> None:
    profiler.tempfile.tempdir = str(job.out / "nowhere")
    train_all(rank, [job])


def test_a_trace_that_has_no_room_is_none_and_training_goes_on(tmp_path):
    path = tmp_path / "profile" / "trace.json.gz"
    ((said, left),) = run_ranks(write_without_room, 1, path)
    assert said.startswith("there is no room for it in ")
    assert left == []
    job = tiny_job(tmp_path, tiny_config(num_steps=3), world_size=1, zero_stage=1, cadence=asking(2))
    assert run_ranks(train_without_a_place_for_scratch, 1, job) == [None]
    assert [line.step for line in lines(job)] == [1, 2, 3]
    assert traces(job) == []
    assert "steps-2-2-rank-0.json.gz could not be written: [Errno 2]" in notices(job)


def test_the_first_rank_of_each_of_some_hosts_records():
    assert recording_ranks(["a"] * 4) == [0]
    assert recording_ranks(["a", "a", "b", "b", "c"]) == [0, 2, 4]
    assert recording_ranks(["b", "a", "b", "a"]) == [0, 1]
    assert recording_ranks([str(host) for host in range(64) for _ in range(8)]) == [8 * n for n in range(MAX_TRACES)]


@pytest.mark.parametrize(
    ("steps", "problem"),
    [((12, 10), "step 10 comes before step 12"), ((1, 21), "at most 20 steps"), ((0, 3), "greater than 0")],
)
def test_steps_that_cannot_be_profiled_are_refused(steps, problem):
    with pytest.raises(ValueError, match=problem):
        CadenceConfig(profile_steps=steps)
    assert CadenceConfig(profile_steps=(1, 20)).profile_steps == (1, 20)
