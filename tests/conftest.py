"""What all tests share: one Ray for the session."""

from collections.abc import Iterator

import pytest

from configs.pools import PoolConfig

pytest_plugins = ["tests.stores"]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray on this machine, started when the first test asks for it."""
    import ray

    from cluster.ray.executor import RayExecutor

    RayExecutor(PoolConfig(num_ranks=1), address="local").placement()
    yield
    ray.shutdown()
