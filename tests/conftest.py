"""What all tests share: one Ray for each process that runs tests, and which tests run in one process."""

from collections.abc import Iterator

import pytest

from configs.pools import PoolConfig

pytest_plugins = ["tests.stores"]

GROUPS = {
    "hosts": (
        "tests/cluster/launch/test_slurm.py",
        "tests/cluster/ray/test_on_hosts.py",
        "tests/test_slurm_fixture.py",
        "tests/test_hosts.py",
    ),
    "ray": (
        "tests/cluster/launch/test_ray_jobs.py",
        "tests/contracts/test_executors.py",
        "tests/cluster/ray/test_gang.py",
        "tests/cluster/ray/test_executor.py",
        "tests/cluster/doctor/test_nodes.py",
        "tests/training/test_stage.py",
    ),
}
"""Files whose tests share something that is slow to start, and therefore a process. Any other file is a group of its
own. A file that is missing here is only slower: it starts another Ray."""

SLOW = (
    "tests/training/loop/test_elastic.py",
    "tests/training/loop/test_trainer.py",
    "tests/training/loop/test_trouble.py",
    "tests/training/network/test_packed_lm.py",
    "tests/training/network/test_build_model.py",
    "tests/training/checkpoint/test_directory.py",
    "tests/eval/test_stage.py",
)
"""Files that take longest after those: they begin early, so that no process is left alone with one at the end."""

_GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the group of each test (for `pytest -n 3 --dist loadgroup`), and begin with the slow ones."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(_GROUP_OF.get(file, file)))
    first = {file: place for place, file in enumerate((*_GROUP_OF, *SLOW))}
    items.sort(key=lambda item: first.get(item.nodeid.partition("::")[0], len(first)))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray on this machine, started when the first test asks for it."""
    import ray

    from cluster.ray.executor import RayExecutor

    RayExecutor(PoolConfig(num_ranks=1), address="local").placement()
    yield
    ray.shutdown()
