"""What ranks decide together comes from rank 0, whatever the others see of the shared file system."""

from pathlib import Path

import torch

from cluster.executor import Rank
from configs.base import InfrastructureError, UserError
from tests.training.ranks import run_ranks, tiny_config, tiny_job
from tests.training.trials import lines, train_all, train_with_poison, trajectory
from training.zero.process_group import from_rank_0, join_process_group, leave_process_group


def read_apart(rank: Rank, text: str) -> tuple[object, str]:
    join_process_group(rank, timeout_seconds=60)

    def fail() -> None:
        assert rank.index == 0, "no other rank is asked"
        raise InfrastructureError(text)

    answer = from_rank_0(lambda: {"rank": rank.index, "path": Path("a")})
    try:
        from_rank_0(fail)
    except UserError as error:
        said = f"{type(error).__name__}: {error}"
    torch.distributed.barrier()
    leave_process_group()
    return answer, said


def test_all_ranks_get_the_answer_of_rank_0_or_its_error() -> None:
    answers = run_ranks(read_apart, 3, "the store is away")
    assert answers == [({"rank": 0, "path": Path("a")}, "InfrastructureError: the store is away")] * 3


def train_blind(rank: Rank, jobs, poison) -> None:
    """As `train_with_poison`, but the other ranks see no roll-back, no metrics and no checkpoint's record or index."""
    from training.checkpoint import restore
    from training.log import metrics_file
    from training.loop import run_state

    def see_nothing(*_: object, **__: object) -> None:
        raise AssertionError("rank 0 reads for all")

    if rank.index:
        for module, name in (
            (restore, "read_record"),
            (restore, "read_index"),
            (restore, "list_checkpoints"),
            (run_state, "read_rollbacks"),
            (run_state, "read_record"),
            (run_state, "list_checkpoints"),
            (metrics_file, "_lines_backwards"),
        ):
            setattr(module, name, see_nothing)
    train_with_poison(rank, jobs, poison)


def test_a_rank_that_sees_an_older_file_system_decides_as_rank_0_does(tmp_path) -> None:
    config = tiny_config(stability={"spikes": None, "max_skipped_steps": 0}, num_steps=8)
    seeing, blind = (tiny_job(tmp_path, config, world_size=2, zero_stage=1, name=name) for name in ("a", "b"))
    trouble = {25: "loss"}
    assert run_ranks(train_with_poison, 2, [seeing], trouble) == [None, None]
    assert run_ranks(train_blind, 2, [blind], trouble) == [None, None]
    assert trajectory(blind) == trajectory(seeing)
    more = config.model_copy(update={"num_steps": 10})
    longer = tiny_job(tmp_path, more, world_size=2, zero_stage=1, name="b")
    assert run_ranks(train_blind, 2, [longer], {}) == [None, None]
    assert [line.step for line in lines(longer)] == list(range(1, 11))
    assert run_ranks(train_all, 2, [longer]) == [None, None]
