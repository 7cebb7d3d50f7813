"""A pool on a cluster that scales itself: Ray's own autoscaler, whose nodes are raylets of one host."""

import sys
from pathlib import Path

import pytest

from tests.hosts import hosts, needs_hosts

ROOT = Path(__file__).parents[3]

PROGRAM = """
import copy, ray
from ray.cluster_utils import AutoscalingCluster
from cluster.ray.executor import RayExecutor
from configs.pools import PoolConfig

LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "rsync_filter",
         "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")

class Cluster(AutoscalingCluster):
    # Ray's wheel lacks the example that its own class begins with.
    def _generate_config(self, head_resources, worker_node_types, autoscaler_v2=False, **others):
        types = copy.deepcopy(worker_node_types)
        types["ray.head.default"] = {"resources": head_resources, "node_config": {}, "max_workers": 0}
        provider = {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True}
        fixed = {"cluster_name": "fake", "max_workers": 8, "upscaling_speed": 1, "file_mounts_sync_continuously": False}
        empty = {"auth": {}, "docker": {}, "file_mounts": {}} | {name: [] for name in LISTS}
        return fixed | empty | others | {
            "provider": provider, "available_node_types": types, "head_node_type": "ray.head.default"
        }

worker = {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "min_workers": 0, "max_workers": 2}
cluster = Cluster(head_resources={"CPU": 0}, worker_node_types={"worker": worker}, idle_timeout_minutes=5)
cluster.start()
machines = {"cpus_per_node": 1, "memory_gib_per_node": 1}
settings = {"cpus_per_rank": 1, "start_timeout_seconds": 120, "num_nodes": 3, "machines": machines}
pool = PoolConfig.model_validate(settings)
print("PLACED", RayExecutor(pool, address="127.0.0.1:6379").placement().num_ranks, flush=True)
"""


@pytest.mark.long
@needs_hosts
def test_nodes_that_are_described_are_started_by_rays_autoscaler(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (host,):
        variables = {
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:/bin",
        }
        printed = host.call([sys.executable, "-c", PROGRAM], env=variables, timeout=180)
    assert "1 of the pool's 3 nodes are there; waiting for the others" in printed
    assert "PLACED 2" in printed
