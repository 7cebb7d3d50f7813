"""Which passes are timed, how often and in which order, by fake seconds; and a store without a place for the times."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cluster.executor import Rank
from tests.training.ranks import run_ranks
from training.allocation import pass_times
from training.allocation.known_times import PASS_TIMES, RankTimes, RankType, Setting, read_known, read_store_times
from training.allocation.pass_times import BUDGET_SECONDS, ROUNDS, PassTimer
from training.data.batches import MicroBatch
from training.zero.process_group import join_process_group, leave_process_group

Passes = list[tuple[int, bool]]
"""Of each pass its sequences, and whether it is the last of all."""


class Fakes:
    """A rank whose passes take what `seconds` says of their size and number; None where the memory is too small."""

    def __init__(self, most: int, seconds: Callable[[int, int], float | None], *, compiled: bool = False) -> None:
        self.passes: Passes = []
        self._seconds = seconds
        placement = SimpleNamespace(micro_batch_size=most, compile=compiled)
        self.timer = PassTimer(
            SimpleNamespace(),
            cast(Any, SimpleNamespace(batch=lambda places: None, read=self._read)),
            cast(Any, placement),
            world_size=1,
            most=most,
            boundary_id=1,
            device=torch.device("cpu"),
            stopwatch=cast(Any, SimpleNamespace(pop_seconds=dict)),
            beat=lambda _: None,
        )
        self.timer._time_pass = self._time_pass  # type: ignore[method-assign]

    def sizes(self) -> list[int]:
        return [size for size, _ in self.passes]

    def _read(self, batch: Any, rows: Any, *, num_targetless: int) -> MicroBatch:
        lengths = np.full(len(rows), 0 if num_targetless else 16)
        return MicroBatch(np.full((len(rows), 17), 2), lengths, np.zeros(len(rows), dtype=np.int64))

    def _time_pass(self, rows: Any, size: int, *, is_last: bool) -> dict[str, float] | None:
        assert len(rows.lengths) == max(1, size)
        self.passes.append((size, is_last))
        seconds = self._seconds(size, len(self.passes) - 1)
        return None if seconds is None else {"forward": seconds / 4, "backward": seconds * 3 / 4, "communication": 0.5}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one rank measure without a process group or an engine."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, op: None)
    monkeypatch.setattr(pass_times, "take_optimizer_step", lambda *_, **__: None)


def measure(fakes: Fakes) -> RankTimes:
    found = fakes.timer.measure()
    assert [is_last for _, is_last in fakes.passes] == [False] * (len(fakes.passes) - 1) + [True]
    return found


@pytest.mark.usefixtures("alone")
def test_all_sizes_are_timed_in_each_round_and_the_shortest_time_counts() -> None:
    a_round, disturbed = [0, 1, 2, 3, 4, 6, 7], 3  # in that round all takes thrice as long
    fakes = Fakes(7, lambda size, number: (0.01 + 0.01 * size) * (1 if (number - 2) // 7 == disturbed else 3))
    found = measure(fakes)
    assert fakes.sizes() == [0, 1] + ROUNDS * a_round
    assert found.seconds == pytest.approx({size: 0.01 + 0.01 * size for size in a_round[1:]})
    assert (found.empty, found.communication, found.most) == (pytest.approx(0.01), 0.5, 7)


@pytest.mark.usefixtures("alone")
def test_what_warms_up_counts_neither_as_a_time_nor_to_the_budget() -> None:
    fakes = Fakes(4, lambda size, number: 100.0 if number < 2 else 0.01)
    assert measure(fakes).seconds == pytest.approx({1: 0.01, 2: 0.01, 3: 0.01, 4: 0.01})
    assert fakes.sizes() == [0, 1] + ROUNDS * [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("alone")
def test_compiled_passes_are_timed_at_both_ends_without_their_compilation() -> None:
    fakes = Fakes(8, lambda size, number: 40.0 if number < 3 else 0.01 * size, compiled=True)
    assert measure(fakes).seconds == pytest.approx({1: 0.01, 8: 0.08})
    assert fakes.sizes() == [0, 1, 8] + ROUNDS * [0, 1, 8]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [
        # tried while twice what was spent and the next one are 15 seconds at most; repeated while all is
        (1.0, [[1, 2, 3, 0, 0], [1, 2, 3, 0, 0], [1, 2, 0, 0, 0], [0] * 5, [0] * 5]),
        (0.25, [[1, 2, 3, 4, 6], [1, 2, 3, 4, 6], [1, 2, 3, 4, 6], [1, 2, 3, 4, 0], [1, 0, 0, 0, 0]]),
        (9.0, [[1, 0, 0, 0, 0], *[[0] * 5] * 4]),
        (20.0, [[1, 0, 0, 0, 0], *[[0] * 5] * 4]),
    ],
)
def test_no_pass_is_timed_beyond_the_budget_and_an_empty_one_stands_in(seconds: float, rounds: list[list[int]]) -> None:
    fakes = Fakes(6, lambda size, number: seconds * size or 0.001)
    found = measure(fakes)
    assert fakes.sizes() == [0, 1] + [size for one in rounds for size in (0, *one)]
    assert found.seconds == pytest.approx({size: seconds * size for size in rounds[0] if size})
    assert found.most == 6, "what was not tried for want of time may fit all the same"
    assert seconds * sum(map(sum, rounds)) <= max(BUDGET_SECONDS, seconds)


@pytest.mark.usefixtures("alone")
def test_what_the_memory_does_not_hold_is_tried_once() -> None:
    fakes = Fakes(8, lambda size, number: None if size > 3 else 0.01 + 0.01 * size)
    found = measure(fakes)
    assert fakes.sizes() == [0, 1, 0, 1, 2, 3, 4, 0, 0] + (ROUNDS - 1) * [0, 1, 2, 3, 0, 0, 0]
    assert (sorted(found.seconds), found.most) == ([1, 2, 3], 3)


def test_ranks_of_unlike_sizes_run_as_many_passes_with_the_rounds_side_by_side() -> None:
    one, other = run_ranks(count_passes, 2)
    assert one == [0, 1, 0] + ROUNDS * [0, 1, 2, 3, 4, 5]
    assert other == [0, 1, 2] + ROUNDS * [0, 1, 2, 0, 0, 0]


def count_passes(rank: Rank) -> list[int]:
    """Measure fake passes beside another rank, which compiles and does fewer sizes."""
    join_process_group(rank, timeout_seconds=60)
    pass_times.take_optimizer_step = lambda *_, **__: (0.0, False)
    fakes = Fakes(2 if rank.index else 5, lambda size, number: 0.01, compiled=bool(rank.index))
    measure(fakes)
    leave_process_group()
    return fakes.sizes()


def test_a_file_in_place_of_the_directory_knows_nothing(tmp_path) -> None:
    setting = Setting(
        model="", attention="", recomputes=False, compiled=False, gathers=False, most=1, device="H100", host="",
        threads=0, cpu_share=0, cores=0, emulated=0, versions=(),
    )  # fmt: skip
    (tmp_path / PASS_TIMES).write_text("{}")
    assert read_known(tmp_path, [RankType("H100", setting)]) is None
    assert read_store_times(tmp_path) == read_store_times(tmp_path / "missing") == read_store_times(None)
