"""What all tests share: one Ray for each process that runs tests, and which tests run in one process."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from configs.pools import PoolConfig

pytest_plugins = ["tests.old_transformers", "tests.stores"]

# Threads of several processes would wait for each other in loops: with two cores, that took half of their time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
    "tests/pipeline/export/test_versions.py",
)
"""Files that take longest after those: they begin early, so that no process is left alone with one at the end."""

_GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files."""
    first = {file: place for place, file in enumerate((*_GROUP_OF, *SLOW))}
    items.sort(key=lambda item: first.get(item.nodeid.partition("::")[0], len(first)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Have each group of files run in one process, in the order of the files.

    xdist's own groups (`--dist loadgroup`) do not come to be: xdist 3.8 writes them into a private field of nodes that
    pytest 9.2 no longer has, and so sends every test to any process.
    """

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return _GROUP_OF.get(file, file)

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray on this machine, started when the first test asks for it."""
    import ray

    from cluster.ray.executor import RayExecutor

    RayExecutor(PoolConfig(num_ranks=1), address="local").placement()
    yield
    ray.shutdown()
