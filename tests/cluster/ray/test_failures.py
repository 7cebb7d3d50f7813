"""How the failures of a gang's ranks are classified."""

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from cluster.executor import Resized
from cluster.ray.failures import RanksLost, check_memory_kills, classify_failure, final_failure
from cluster.ray.rank import RankLocation
from configs.base import OutOfMemory, UserError

LOCATIONS = [RankLocation("n", f"host-{index}", f"10.0.0.{index}", 1, 1, 1, None, 0) for index in range(2)]


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
    assert final_failure(failures) is wish
