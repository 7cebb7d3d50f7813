"""Whom the ranks of a hang wait for, by what they wrote."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from configs.base import UserError
from training.loop.hangs import RankStacks, heading, judge, read_hang

IN_COLLECTIVE = """Thread 0x0001 (most recent call first):
  File "/env/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/concord/training/loop/step.py", line 109 in run_step
"""
IN_WORK = """Thread 0x0001 (most recent call first):
  File "/concord/training/data/prefetch.py", line 90 in take
"""
WATCHDOG = """Current thread 0x0002 (most recent call first):
  File "/env/torch/distributed/distributed_c10d.py", line 1 in anything
  File "/concord/training/loop/watchdog.py", line 99 in _write_stacks

"""


def record(counts: Mapping[str, tuple[int, int]]) -> str:
    """What PyTorch 2.11 and 2.13 dump as JSON, of each group the collectives entered and begun."""
    groups = {
        name: {
            "last_enqueued_collective": str(entered),
            "last_started_collective": str(started),
            "last_completed_collective": str(started - 1),
        }
        for name, (entered, started) in counts.items()
    }
    return json.dumps({"version": "2.10", "pg_status": groups, "entries": []})


def write(directory: Path, ranks: Mapping[int, tuple[str, str, str]], *, world_size: int) -> None:
    """Write stacks of ranks: host, stack, record."""
    for rank, (host, stack, dump) in ranks.items():
        (directory / f"rank-{rank:05d}.txt").write_text(
            heading(rank, world_size, host, "a backward pass") + WATCHDOG + stack
        )
        if dump:
            (directory / f"rank-{rank:05d}.json").write_text(dump)


def test_the_rank_outside_of_the_collective_is_waited_for(tmp_path: Path) -> None:
    stacks = {0: ("a", IN_COLLECTIVE, ""), 1: ("b", IN_WORK, ""), 2: ("c", IN_COLLECTIVE, "")}
    write(tmp_path, stacks, world_size=3)
    verdict = judge(read_hang(tmp_path))
    assert (verdict.suspects, verdict.host) == ((1,), "b")
    assert verdict.text == "the others wait for rank 1 on b (rank 1 during a backward pass)"


def test_where_all_wait_on_the_device_the_flight_records_tell(tmp_path: Path) -> None:
    """With NCCL the host goes on: every stack ends in a synchronisation, or none in a collective."""
    ahead, behind = record({"0": (12, 12), "1": (3, 3)}), record({"0": (11, 11), "1": (3, 3)})
    write(tmp_path, {0: ("a", IN_WORK, ahead), 1: ("b", IN_WORK, behind), 2: ("c", IN_WORK, ahead)}, world_size=3)
    assert (judge(read_hang(tmp_path)).suspects, judge(read_hang(tmp_path)).host) == ((1,), "b")


def test_a_device_that_has_not_begun_what_all_have_entered_is_waited_for(tmp_path: Path) -> None:
    fine, stuck = record({"0": (12, 12)}), record({"0": (12, 10)})
    write(tmp_path, {0: ("a", IN_WORK, fine), 1: ("b", IN_WORK, fine), 2: ("c", IN_WORK, stuck)}, world_size=3)
    assert judge(read_hang(tmp_path)).suspects == (2,)


def test_the_fewest_collectives_count_not_all_that_are_less_than_the_most(tmp_path: Path) -> None:
    """A broadcast may be over on the rank that sends it while another still waits for the one that hangs."""
    dumps = {rank: ("abc"[rank], IN_WORK, record({"0": (12 - rank, -1)})) for rank in range(3)}
    write(tmp_path, dumps, world_size=3)
    assert judge(read_hang(tmp_path)).suspects == (2,)


def test_a_rank_that_wrote_nothing_is_waited_for_and_its_host_not_known(tmp_path: Path) -> None:
    write(tmp_path, {0: ("a", IN_COLLECTIVE, ""), 2: ("c", IN_COLLECTIVE, "")}, world_size=3)
    verdict = judge(read_hang(tmp_path))
    assert (verdict.suspects, verdict.host) == ((1,), None)
    assert "the others wait for rank 1 (1 of them wrote nothing)" in verdict.text


@pytest.mark.parametrize(
    "stacks",
    [
        {rank: ("ab"[rank], IN_COLLECTIVE, "") for rank in range(2)},  # a network that is cut
        {rank: ("ab"[rank], IN_WORK, "") for rank in range(2)},
        {rank: ("ab"[rank], IN_COLLECTIVE, record({"0": (3 + rank, -1), "1": (4 - rank, -1)})) for rank in range(2)},
    ],
)
def test_nobody_is_blamed_where_it_cannot_be_told(tmp_path: Path, stacks: dict[int, tuple[str, str, str]]) -> None:
    write(tmp_path, stacks, world_size=2)
    verdict = judge(read_hang(tmp_path))
    assert (verdict.suspects, verdict.host) == ((), None)


def test_suspects_on_several_hosts_are_named_and_no_host_is_to_blame(tmp_path: Path) -> None:
    write(
        tmp_path,
        {rank: ("abcd"[rank], IN_WORK if rank > 1 else IN_COLLECTIVE, "") for rank in range(4)},
        world_size=4,
    )
    verdict = judge(read_hang(tmp_path))
    assert (verdict.suspects, verdict.host) == ((2, 3), None)
    assert "ranks 2, 3 on c, d" in verdict.text


def test_a_record_of_another_version_is_none(tmp_path: Path) -> None:
    (tmp_path / "rank-00000.txt").write_text(heading(0, 2, "a", "the start") + IN_COLLECTIVE)
    for text in ("{}", "half of {", "[]", '{"pg_status": {"0": {}}}'):
        (tmp_path / "rank-00000.json").write_text(text)
        (found,) = read_hang(tmp_path)
        assert found == RankStacks(0, 2, "a", "the start", True, None, None)


def test_stacks_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rank-00000.txt").write_text("what\n")
    with pytest.raises(UserError, match="does not begin as the stacks of a rank do"):
        read_hang(tmp_path)
