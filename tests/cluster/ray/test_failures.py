"""How the failures of a gang's ranks are classified."""

import errno

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from cluster.executor import Resized
from cluster.ray.failures import RanksLost, check_memory_kills, classify_failure, final_failure
from cluster.ray.rank import RankLocation
from configs.base import InfrastructureError, LeaseLost, OutOfMemory, UserError
from training.checkpoint.async_save import OtherRankFailed

LOCATIONS = [RankLocation("n", f"host-{index}", f"10.0.0.{index}", 1, 1, 1, {}, 0) for index in range(2)]


def raised(cause: Exception) -> RayTaskError:
    return RayTaskError("run", "a traceback", cause)


USUAL = (
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage"
)


def died(detail: str = USUAL) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = f"The actor is dead because its worker process has died. Worker exit detail: {detail}"
    return error


def test_a_users_error_is_told_before_a_death():
    cause = UserError("this is wrong; mend it")
    assert classify_failure({0: died(), 1: raised(cause)}, LOCATIONS) is cause


def test_the_systems_error_is_told_but_a_lost_connection_is_not():
    full = OSError(28, "No space left on device")
    assert classify_failure({0: raised(ConnectionResetError("peer")), 1: raised(full)}, LOCATIONS) is full


def test_a_death_is_told_before_what_followed_from_it():
    answer = classify_failure({0: raised(RuntimeError("Connection closed by peer")), 1: died()}, LOCATIONS)
    assert isinstance(answer, RanksLost) and "rank 1's process on host-1 (10.0.0.1) died" in str(answer)


@pytest.mark.parametrize("cause", [RuntimeError("Connection closed by peer"), ConnectionResetError("peer")])
def test_nothing_is_classified_while_a_failure_may_have_another_cause(cause):
    assert classify_failure({0: raised(cause)}, LOCATIONS) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (died(), "killed, or crashed"),
        (died("Worker exits with an exit code 1. The process receives a SIGTERM."), "SIGTERM"),
        (died("Worker exits unexpectedly. Worker exits with an exit code 4."), "exit code 4"),
        (died("The actor died because its node has died. Node Id: 1"), "its node is gone"),
    ],
)
def test_how_a_rank_died_is_told(error, said):
    assert said in str(classify_failure({0: error}, LOCATIONS))


class OutOfMemoryOfTorch(RuntimeError):
    """Stands in for torch.OutOfMemoryError, so that this test need not import torch."""


OutOfMemoryOfTorch.__name__ = "OutOfMemoryError"


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("1 worker(s) were killed due to the node running low on memory."),
        died("The actor is dead: the node was running low on memory."),
        raised(OutOfMemoryOfTorch("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        raised(RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")),
        raised(MemoryError()),
    ],
)
def test_want_of_memory_is_told_with_what_helps_and_is_no_loss(error):
    answer = classify_failure({0: raised(RuntimeError("Connection closed by peer")), 1: error}, LOCATIONS)
    assert isinstance(answer, OutOfMemory) and answer.exit_code == 73
    assert "rank 1 on host-1 (10.0.0.1) ran out of memory" in str(answer) and "micro_batch_size" in str(answer)


def test_the_kernels_count_tells_which_loss_was_for_want_of_memory():
    check_memory_kills(LOCATIONS[0], node="n", kills=0)
    check_memory_kills(LOCATIONS[0], node="another", kills=1)
    check_memory_kills(None, node="n", kills=1)
    with pytest.raises(OutOfMemory, match="the kernel ended it"):
        check_memory_kills(LOCATIONS[0], node="n", kills=1)


def test_ranks_that_make_way_have_not_failed():
    wish = Resized()
    failures = {0: raised(RuntimeError("Connection closed by peer")), 1: raised(wish)}
    assert classify_failure(failures, LOCATIONS) is None
    assert final_failure(failures, LOCATIONS) is wish


ECC = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported"
LOST_PEER = "NCCL error: remote process exited or there was a network error, NCCL version 2.27.5\nncclRemoteError"


def test_a_device_that_fails_is_a_lost_rank_and_its_host_the_suspect() -> None:
    for others in ({0: raised(RuntimeError(LOST_PEER))}, {0: died()}, {}):
        answer = classify_failure(others | {1: raised(RuntimeError(ECC))}, LOCATIONS)
        assert isinstance(answer, RanksLost) and answer.location is LOCATIONS[1]
        assert str(answer) == (
            "rank 1 on host-1 (10.0.0.1) is lost: its device failed (CUDA error: uncorrectable ECC error encountered)"
        )


def test_a_rank_that_aborts_may_have_lost_its_peers() -> None:
    """NCCL's watchdog aborts the ranks whose peer is gone, so who aborted first is no evidence."""
    assert classify_failure({0: died()}, LOCATIONS, {0: "aborted"}) is None
    answer = classify_failure({0: died(), 1: died()}, LOCATIONS, {0: "aborted"})
    assert isinstance(answer, RanksLost) and answer.location is LOCATIONS[1]
    answer = final_failure({0: died()}, LOCATIONS, {0: "aborted"})
    assert isinstance(answer, RanksLost) and answer.location is LOCATIONS[0]
    answer = final_failure({0: died(), 1: died()}, LOCATIONS, {0: "aborted", 1: "aborted"})
    assert isinstance(answer, RanksLost) and answer.location is None


def test_of_a_hang_the_rank_that_the_others_waited_for_is_the_suspect() -> None:
    """Every watchdog ends its own rank: who is first is no evidence, but what they have printed is."""
    assert classify_failure({0: died()}, LOCATIONS, {0: "waited"}) is None
    for late in (died(), raised(RuntimeError("Connection closed by peer"))):
        answer = classify_failure({0: late, 1: died()}, LOCATIONS, {0: "waited", 1: "hung"})
        assert isinstance(answer, RanksLost) and answer.location is LOCATIONS[1]
        assert str(answer) == "rank 1 on host-1 (10.0.0.1) is lost: it hung, and the others waited for it"
    answer = final_failure({0: died(), 1: died()}, LOCATIONS, {0: "waited", 1: "waited"})
    assert isinstance(answer, RanksLost) and answer.location is None


def test_a_rank_that_does_not_even_end_is_the_suspect_if_it_alone_is_left() -> None:
    answer = final_failure({1: died()}, LOCATIONS, {1: "waited"})
    assert isinstance(answer, RanksLost) and answer.location is LOCATIONS[0]
    assert "rank 0 on host-0 (10.0.0.0) is lost: it does not answer" in str(answer)
    third = RankLocation("n", "host-2", "10.0.0.2", 1, 1, 1, {}, 0)
    answer = final_failure({1: died()}, [*LOCATIONS, third], {1: "waited"})
    assert isinstance(answer, RanksLost) and answer.location is None


def test_ranks_that_lost_each_other_are_started_again_and_nobody_is_blamed() -> None:
    failures = {index: raised(RuntimeError(LOST_PEER)) for index in (1, 0)}
    assert classify_failure(failures, LOCATIONS) is None
    answer = final_failure(failures, LOCATIONS)
    assert isinstance(answer, RanksLost) and answer.location is None
    assert str(answer).startswith("2 ranks lost each other, rank 1 first (NCCL error: remote process exited")
    in_use = "The server socket has failed to listen on any local network address. EADDRINUSE, address already in use"
    answer = final_failure({0: raised(RuntimeError(in_use))}, LOCATIONS)
    assert isinstance(answer, RanksLost) and answer.location is LOCATIONS[0]


def test_what_a_rank_raised_by_itself_is_told_before_what_its_peers_saw_of_it() -> None:
    bug = raised(KeyError("weight"))
    assert final_failure({0: raised(RuntimeError(LOST_PEER)), 1: bug}, LOCATIONS) is bug


@pytest.mark.parametrize(
    "cause",
    [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "I/O error"), InfrastructureError("s3 away")],
)
def test_a_file_system_that_hiccups_is_a_loss_that_no_host_is_blamed_for(cause: Exception) -> None:
    answer = classify_failure({0: raised(ConnectionResetError("peer")), 1: raised(cause)}, LOCATIONS)
    assert isinstance(answer, RanksLost) and answer.location is None
    assert str(answer).startswith("rank 1 on host-1 (10.0.0.1) could not read or write (")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert classify_failure({1: raised(cause), 0: raised(full)}, LOCATIONS) is full


def test_a_lease_that_is_lost_and_a_save_that_another_rank_spoiled_are_no_hiccups() -> None:
    lost = LeaseLost("taken over")
    assert classify_failure({0: raised(lost)}, LOCATIONS) is lost
    full = OSError(errno.ENOSPC, "No space left on device")
    assert classify_failure({0: raised(OtherRankFailed("another rank could not write"))}, LOCATIONS) is None
    assert classify_failure({0: raised(OtherRankFailed("another")), 1: raised(full)}, LOCATIONS) is full
