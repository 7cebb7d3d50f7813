"""The contract of every executor: the same tests run on Ray and in this process."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from cluster import inline
from cluster.executor import Executor, Rank, Resized
from cluster.inline import InlineExecutor
from cluster.machines import Node
from cluster.rank_output import read_end
from cluster.ray import bundles
from configs.base import ConfigError, InfrastructureError, OutOfMemory, StartUpError, UserError
from configs.pools import PoolConfig

MakeExecutor = Callable[..., Executor]


@pytest.fixture(params=["inline", "ray"])
def make(request) -> MakeExecutor:
    """Return a function that makes an executor from a pool's settings."""
    if request.param == "inline":
        return lambda **pool: InlineExecutor(PoolConfig(**pool))
    return ray_maker(request)


@pytest.fixture
def make_ray(request) -> MakeExecutor:
    return ray_maker(request)


def ray_maker(request) -> MakeExecutor:
    request.getfixturevalue("ray_cluster")
    from cluster.ray.executor import RayExecutor

    return lambda **pool: RayExecutor(PoolConfig(**pool), address="local")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def hold(begun: Path) -> None:
    begun.touch()
    time.sleep(1000)


@dataclass(frozen=True)
class Unpickled:
    """A function that leaves a mark where it is unpickled."""

    mark: Path

    def __call__(self, number: int) -> int:
        return number

    def __setstate__(self, state: dict[str, Path]) -> None:
        object.__setattr__(self, "mark", state["mark"])
        self.mark.touch()


def square(number: int) -> int:
    return number * number


def refuse_seven(number: int) -> int:
    if number == 7:
        raise UserError("line 7 is wrong; mend it")
    return number


def fill_disk(path: str) -> None:
    raise OSError(28, "No space left on device", path)


def fail(number: int) -> None:
    raise ZeroDivisionError(f"bug on {number}")


@dataclass(frozen=True)
class Deadly:
    """An item that kills its worker the first `times` times."""

    marks: Path
    number: int
    times: int = 1


def die_then_work(item: Deadly) -> int:
    mark = item.marks / f"{item.number}-{len(list(item.marks.glob(f'{item.number}-*')))}"
    if item.number == 2 and len(list(item.marks.glob(f"{item.number}-*"))) < item.times:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item.number


ECC = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported"


def fail_device_then_work(item: Deadly) -> int:
    mark = item.marks / f"{item.number}-{len(list(item.marks.glob(f'{item.number}-*')))}"
    if item.number == 2 and len(list(item.marks.glob(f"{item.number}-*"))) < item.times:
        mark.touch()
        raise RuntimeError(ECC)
    return item.number


def describe(rank: Rank, argument: str) -> tuple[str, Rank, dict[str, str]]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR", "OMP_NUM_THREADS")
    return argument, rank, {name: os.environ[name] for name in names}


def leave_a_mark(rank: Rank, marks: Path) -> int:
    (marks / f"start-{rank.num_restarts}-rank-{rank.index}").touch()
    return rank.num_restarts


def die_at_first(rank: Rank, marks: Path) -> int:
    """Rank 1 is killed before the first restart while rank 0 waits for it, as in a collective."""
    leave_a_mark(rank, marks)
    if rank.num_restarts == 0 and rank.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank.num_restarts == 0:
        signal.pause()
    return rank.num_restarts


def fail_device_at_first(rank: Rank, marks: Path) -> int:
    """Rank 1's GPU fails before the first restart; rank 0 sees that its peer is gone."""
    leave_a_mark(rank, marks)
    if rank.num_restarts == 0:
        raise RuntimeError(ECC if rank.index == 1 else "NCCL error: remote process exited")
    return rank.num_restarts


def die_always(rank: Rank, argument: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_device_alone(rank: Rank, argument: None) -> None:
    raise RuntimeError(ECC)


def refuse(rank: Rank, argument: None) -> None:
    if rank.index == rank.world_size - 1:
        raise UserError("the last rank refuses; change it")
    raise RuntimeError("a collective failed because a peer left")


def want_memory(rank: Rank, argument: None) -> None:
    raise MemoryError


def make_way_once(rank: Rank, argument: None) -> int:
    if rank.num_restarts == 0:
        raise Resized
    return rank.num_restarts


def test_map_gives_results_in_the_order_of_the_items(make):
    assert list(make().map(square, range(50), label="squaring")) == [n * n for n in range(50)]


def test_map_of_nothing_is_nothing(make):
    assert list(make().map(square, [], label="squaring")) == []


def test_map_passes_a_users_error_on_as_it_was(make):
    with pytest.raises(UserError) as caught:
        list(make().map(refuse_seven, range(10), label="checking"))
    assert type(caught.value) is UserError and str(caught.value) == "line 7 is wrong; mend it"


def test_map_passes_the_systems_error_on_with_its_number(make):
    with pytest.raises(OSError) as caught:
        list(make().map(fill_disk, ["/some/file"], label="writing"))
    assert (caught.value.errno, caught.value.filename) == (28, "/some/file")


def test_map_shows_where_our_own_bug_is(make):
    with pytest.raises(ZeroDivisionError, match="bug on 3"):
        list(make().map(fail, [3], label="failing"))


def test_map_goes_on_after_a_lost_worker(make_ray, tmp_path):
    items = [Deadly(tmp_path, number) for number in range(5)]
    assert list(make_ray(max_restarts=2).map(die_then_work, items, label="dying")) == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.iterdir())) == 1


def test_map_gives_up_after_max_restarts(make_ray, tmp_path):
    items = [Deadly(tmp_path, 2, times=100)]
    with pytest.raises(InfrastructureError, match="died 2 times"):
        list(make_ray(max_restarts=1).map(die_then_work, items, label="dying"))
    assert len(list(tmp_path.iterdir())) == 2


def test_map_does_an_item_again_whose_device_failed(make_ray, tmp_path, capsys):
    items = [Deadly(tmp_path, number) for number in range(4)]
    executor = make_ray(max_restarts=1)
    assert list(executor.map(fail_device_then_work, items, label="scoring")) == [0, 1, 2, 3]
    said = capsys.readouterr().err
    assert re.search(r"scoring: the device of an item on \S+ failed \(CUDA error: uncorrectable ECC", said)
    with pytest.raises(InfrastructureError, match=r"scoring: the device of an item on .*, after 1 retries"):
        list(executor.map(fail_device_then_work, [Deadly(tmp_path, 2, times=100)], label="scoring"))


def test_a_device_that_fails_in_this_process_is_a_sentence(tmp_path):
    executor = InlineExecutor(PoolConfig())
    for call in (
        lambda: list(executor.map(fail_device_then_work, [Deadly(tmp_path, 2)], label="scoring")),
        lambda: executor.gang(fail_device_alone, None, label="scoring"),
    ):
        with pytest.raises(InfrastructureError, match=r"^scoring: the device failed \(CUDA error: uncorrectable ECC"):
            call()


def test_map_holds_few_items_in_flight(make, tmp_path):
    results = make().map(touch, [tmp_path / str(n) for n in range(100)], label="touching")
    next(results)
    assert len(list(tmp_path.iterdir())) < 20
    results.close()


def touch(path: Path) -> None:
    path.touch()


def test_gang_gives_each_rank_its_place_and_returns_rank_0s_result(make):
    argument, rank, environment = make(num_ranks=1).gang(describe, "hello", label="describing")
    assert (argument, rank.index, rank.world_size, rank.num_restarts, rank.device) == ("hello", 0, 1, 0, "cpu")
    assert environment == {name: rank.environment()[name] for name in environment}


def test_gang_passes_a_users_error_on_and_does_not_start_again(make):
    with pytest.raises(UserError, match=r"^the last rank refuses; change it$"):
        make(num_ranks=1).gang(refuse, None, label="refusing")


def test_gang_tells_a_users_error_from_what_followed_it(make_ray):
    with pytest.raises(UserError, match=r"^the last rank refuses; change it$"):
        make_ray(num_ranks=2).gang(refuse, None, label="refusing")


def test_gang_starts_all_ranks_and_starts_them_again_together(make_ray, tmp_path):
    assert make_ray(num_ranks=2, max_restarts=1).gang(die_at_first, tmp_path, label="dying") == 1
    assert {"start-1-rank-0", "start-1-rank-1"} <= {path.name for path in tmp_path.iterdir()}


def say_and_die_at_first(rank: Rank, marks: Path) -> int:
    """Rank 1 aborts below Python, as an assertion of CUDA does, while rank 0 waits."""
    print(f"rank {rank.index} works")
    leave_a_mark(rank, marks)
    while len(list(marks.glob("start-0-*"))) < rank.world_size:
        time.sleep(0.02)
    if rank.num_restarts == 0 and rank.index == 1:
        os.write(2, b"device-side assert triggered\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if rank.num_restarts == 0:
        signal.pause()
    return rank.num_restarts


def abort_at_first(rank: Rank, marks: Path) -> int:
    """Rank 0 is killed before the first restart, and rank 1, which has lost it, aborts, as NCCL makes it do."""
    leave_a_mark(rank, marks)
    while rank.num_restarts == 0 and len(list(marks.glob("start-0-*"))) < rank.world_size:
        time.sleep(0.02)
    if rank.num_restarts == 0 and rank.index == 1:
        print("Watchdog caught collective operation timeout")
        os.abort()
    if rank.num_restarts == 0:
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)
    return rank.num_restarts


def test_a_rank_that_aborts_is_not_blamed_where_a_later_death_explains_it(make_ray, tmp_path, capsys):
    """Ray tells of both the same; what the process printed tells the one from the other."""
    assert make_ray(num_ranks=2, max_restarts=1).gang(abort_at_first, tmp_path, label="training", output=tmp_path) == 1
    said = capsys.readouterr().err
    assert "training: rank 0's process on" in said and "rank 1's process" not in said
    assert read_end(tmp_path / "rank-00001.log") is None  # of its second start
    assert "*** SIGABRT received" in (tmp_path / "rank-00001.log").read_text()


def test_items_for_which_there_is_no_room_are_waited_for_a_while_and_not_for_ever(
    make_ray, monkeypatch, capsys, tmp_path
):
    """Ray keeps work in its queue without a word, for as long as others have the cores, or for ever where none fits."""
    import ray

    monkeypatch.setattr(bundles, "SECONDS_UNTIL_SAID", 0.5)
    num_cpus = int(ray.cluster_resources()["CPU"])
    holder = ray.remote(hold).options(num_cpus=num_cpus).remote(tmp_path / "held")
    try:
        executor = make_ray(start_timeout_seconds=2.0)
        while not (tmp_path / "held").exists():  # Ray may still say for a while that the cores are free
            sleep(0.01)
        with pytest.raises(
            StartUpError, match=r"^squaring: 1 CPU core did not become free in 2 s; the cluster's nodes"
        ):
            list(executor.map(square, range(3), label="squaring"))
    finally:
        ray.cancel(holder, force=True)
    assert re.search(
        r"squaring: waiting for 1 CPU core; the cluster's nodes are \S+ with 0 of", capsys.readouterr().err
    )
    assert list(make_ray(start_timeout_seconds=60.0).map(square, range(3), label="squaring")) == [0, 1, 4]


def test_workers_import_what_a_map_will_need_before_it(make_ray, tmp_path):
    executor = make_ray()
    executor.warm(Unpickled(tmp_path / "imported"), num_items=1)
    until = time.monotonic() + 60
    while not (tmp_path / "imported").exists():
        assert time.monotonic() < until
        sleep(0.02)
    assert list(executor.map(square, range(3), label="squaring")) == [0, 1, 4]


def test_what_ranks_print_is_kept_and_the_last_words_of_a_lost_one_are_told(make_ray, tmp_path, capsys):
    executor, ranks = make_ray(num_ranks=2, max_restarts=1), tmp_path / "ranks"
    assert executor.gang(say_and_die_at_first, tmp_path, label="training", output=ranks) == 1
    told = f'died (killed, or crashed); it printed last: "rank 1 works | device-side assert triggered" ({ranks}/rank-'
    assert told in capsys.readouterr().err
    kept = [(ranks / f"rank-0000{index}.log").read_text().splitlines() for index in range(2)]
    assert [line for line in kept[0] if "===" not in line] == ["rank 0 works"] * 2
    assert [line.split(" on ")[0] for line in kept[1]] == [
        "=== start 0",
        "rank 1 works",
        "device-side assert triggered",
        "=== start 1",
        "rank 1 works",
    ]


def test_gang_starts_again_when_a_device_fails(make_ray, tmp_path, capsys):
    assert make_ray(num_ranks=2, max_restarts=1).gang(fail_device_at_first, tmp_path, label="training") == 1
    said = capsys.readouterr().err
    assert re.search(r"training: rank 1 on \S+ \(\S+\) is lost: its device failed \(CUDA error: uncorrectable", said)


def test_gang_gives_up_after_max_restarts(make_ray):
    with pytest.raises(
        InfrastructureError, match=r"rank 0's process on .* died \(killed, or crashed\), after 1 restarts"
    ):
        make_ray(num_ranks=1, max_restarts=1).gang(die_always, None, label="dying")


def test_gang_tells_want_of_memory_and_does_not_start_again(make_ray):
    with pytest.raises(OutOfMemory, match=r"rank 0 on .* ran out of memory .*; lower micro_batch_size"):
        make_ray(num_ranks=1, max_restarts=3).gang(want_memory, None, label="growing")


def test_gang_starts_again_when_ranks_make_way_and_counts_no_loss(make_ray):
    assert make_ray(num_ranks=2, max_restarts=0).gang(make_way_once, None, label="making way") == 1


def test_bundles_that_are_not_free_in_time_are_reported_with_the_free_cores(make_ray, all_cores_taken):
    with pytest.raises(StartUpError) as caught:
        make_ray(num_ranks=1, cpus_per_rank=1, start_timeout_seconds=0.5).gang(die_always, None, label="waiting")
    said = str(caught.value)
    assert "places for 1 ranks of 1 CPU core did not become free in 0.5 s" in said
    assert re.search(r"with 0 of \d+ cores free, of 1 that live", said) and "\n" not in said


@pytest.fixture
def all_cores_taken(make_ray) -> Iterator[None]:
    """Take all cores with the placement group of another owner."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    make_ray(num_ranks=1).placement()
    group = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    group.wait(30)
    yield
    remove_placement_group(group)


def write_place(rank: Rank, out: Path) -> tuple[int, ...]:
    """Write down what a rank is given, and go on once all have."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    (out / f"rank-{rank.index}").write_text(f"{rank.member} {rank.num_threads} {threads} {rank.world_size}")
    while len(list(out.glob("rank-*"))) < rank.world_size:
        time.sleep(0.02)
    return rank.world_size, rank.member


def test_ranks_of_a_pool_with_members_follow_each_other_with_the_threads_of_their_own(make_ray, tmp_path):
    members = ({"num_ranks": 1, "cpus_per_rank": 3}, {"num_ranks": 2, "cpus_per_rank": 2})
    executor = make_ray(oversubscribe=True, members=members)
    placement = executor.placement()
    assert [member.num_ranks for member in placement.members] == [1, 2]
    assert executor.gang(write_place, tmp_path, label="placing") == (3, 0)
    places = [(tmp_path / f"rank-{index}").read_text() for index in range(3)]
    assert places == ["0 3 3 3", "1 2 2 3", "1 2 2 3"]


def test_map_works_on_the_nodes_of_a_pool_with_members(make):
    executor = make(cpus_per_task=1, oversubscribe=True, members=({"num_ranks": 1}, {"num_ranks": 1}))
    assert list(executor.map(square, range(9), label="squaring")) == [n * n for n in range(9)]
    assert list(executor.map(square, range(3), label="squaring", on_device=True)) == [0, 1, 4]
    executor.release()


def test_this_process_is_a_rank_of_the_first_member_that_this_machine_suits(monkeypatch):
    """The other members, and how many ranks they have, are of no concern here."""
    second = {"accelerator": "A100-80G", "micro_batch_size": 3, "num_ranks": 7}
    pool = PoolConfig.model_validate({"members": [{"accelerator": "H100"}, second, {"accelerator": "A100"}]})
    here = Node("here", 4, 1, 2**34, accelerator="A100", accelerator_bytes=79 * 2**30)
    monkeypatch.setattr(inline, "this_machine", lambda num_gpus: here)
    placement = InlineExecutor(pool).placement()
    assert (placement.num_ranks, placement.micro_batch_size, placement.members) == (1, 3, ())
    here = replace(here, accelerator_bytes=40 * 2**30)
    assert InlineExecutor(pool).placement().micro_batch_size == 8
    here = replace(here, accelerator="L40S")
    with pytest.raises(ConfigError, match=r"^the pool wants H100, and this machine has L40S; start the run where"):
        InlineExecutor(pool).placement()
    here = Node("here", 4, 0, 2**34)
    with pytest.raises(ConfigError, match=r"^the pool wants GPUs, and the driver finds none"):
        InlineExecutor(pool).placement()


def test_gang_frees_what_it_took(make_ray, tmp_path):
    for _ in range(3):
        make_ray(num_ranks=2).gang(leave_a_mark, tmp_path, label="marking")


def test_more_ranks_than_cores_are_refused(make_ray):
    with pytest.raises(ConfigError, match="999 ranks"):
        make_ray(num_ranks=999).placement()


def test_a_ray_that_does_not_answer_gives_one_sentence():
    from cluster.host.network import free_port
    from cluster.ray.connection import check_answers

    with pytest.raises(StartUpError, match="no Ray answers at"):
        check_answers(f"127.0.0.1:{free_port()}")


def own_process(number: int) -> int:
    return os.getpid()


def test_workers_that_kept_a_device_are_ended_when_the_work_is_done_and_not_before(make_ray):
    """One with a model on a GPU would keep the GPU's memory from what is made next."""
    executor = make_ray(cpus_per_task=1)
    first = set(executor.map(own_process, range(4), label="first", on_device=True))
    again = set(executor.map(own_process, range(4), label="again", on_device=True))
    assert first & again  # a warm worker is used again
    assert all(psutil.pid_exists(pid) for pid in again)
    executor.release()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in first | again) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(psutil.pid_exists(pid) for pid in first | again)
    assert set(executor.map(own_process, range(2), label="after")).isdisjoint(first | again)
