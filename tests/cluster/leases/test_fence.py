"""Who may write, on a file system that does not always answer."""

import errno
from pathlib import Path

import pytest

from cluster.leases import fence as fencing
from cluster.leases.fence import Fence, fence_of
from cluster.leases.lease import lease
from configs.base import InfrastructureError, LeaseLost, UserError


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The errors that the next reads of a lease's file end with."""
    errors: list[int] = []
    read = Path.read_text

    def read_text(path: Path, **settings: str) -> str:
        if errors and path.parent.name == fencing.LEASES:
            raise OSError(errors.pop(0), "no", str(path))
        return read(path, **settings)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(fencing, "SECONDS_BETWEEN_TRIES", 0.01)
    return errors


def test_a_read_that_fails_for_a_while_says_nothing(tmp_path: Path, stale: list[int]) -> None:
    with lease(tmp_path, "a", what="a") as fence:
        for error in (errno.ESTALE, errno.EIO, errno.ETIMEDOUT):
            stale[:] = [error]
            fence.poll()
            assert not stale
            stale[:] = [error] * 3
            fence.check()
            assert not stale, "it was asked again until it answered"


def test_a_lease_that_is_lost_is_told_once_the_file_can_be_read(tmp_path: Path, stale: list[int]) -> None:
    held = Fence(tmp_path / fencing.LEASES / "a", "mine")
    stale[:] = [errno.ESTALE]
    with pytest.raises(LeaseLost):
        held.check()
    stale[:] = [errno.ESTALE]
    held.poll()
    with pytest.raises(LeaseLost):
        held.poll()


def test_what_stays_unknown_ends_as_a_failure_of_machines(
    tmp_path: Path, stale: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "PATIENCE_SECONDS", 0.05)
    stale[:] = [errno.EIO] * 1000
    with pytest.raises(InfrastructureError, match="which says who may write a, cannot be read"):
        Fence(tmp_path / fencing.LEASES / "a", None).check()
    stale[:] = [errno.EACCES] * 2
    with pytest.raises(UserError, match="cannot be read") as caught:
        Fence(tmp_path / fencing.LEASES / "a", None).check()
    assert not isinstance(caught.value, InfrastructureError)
    stale.clear()
    fence_of(tmp_path / "a").check()
