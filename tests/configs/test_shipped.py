import pytest

from cluster.launch.launcher import launcher_for
from cluster.machines import GIB, Node
from cluster.placement import TooFew, place
from configs.cluster import ClusterConfig
from configs.load import SHIPPED, load
from configs.run import RunConfig
from pipeline.graph.plan import make_plan
from pipeline.graph.wiring import wiring_problems
from pipeline.stages import STAGES

RECIPES = sorted((SHIPPED / "recipes").glob("*.yaml"))
CLUSTERS = sorted((SHIPPED / "clusters").glob("*.yaml"))


def test_recipes_and_clusters_ship():
    assert {"smoke", "one-billion"} <= {path.stem for path in RECIPES}
    assert {"inline", "local", "ray", "slurm", "kubernetes", "eight-gpus"} <= {path.stem for path in CLUSTERS}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_plans(path):
    run = load(path, RunConfig).config
    assert wiring_problems(run, STAGES) == []
    plan = make_plan(run, STAGES, observed={})
    assert {step.origin for step in plan.steps.values()} == set(run.steps)
    assert set(plan.outputs) <= set(plan.steps)
    assert run.name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_pools_of_a_shipped_recipe_are_in_the_default_cluster(path):
    pools = load(SHIPPED / "clusters" / "local.yaml", ClusterConfig).config.pools
    assert {step.pool for step in load(path, RunConfig).config.steps.values()} <= set(pools)


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_a_shipped_cluster_loads_has_its_launcher_and_its_default_pool_fits_a_laptop(path):
    cluster = load(path, ClusterConfig).config
    laptop = Node("laptop", num_cpus=2, num_gpus=0, memory_bytes=8 * GIB)
    pool = cluster.pools["default"]
    if pool.wants_gpus:
        with pytest.raises(TooFew, match="the pool wants GPUs"):
            place(pool, [laptop], wandb=cluster.wandb)
        laptop = Node("laptop", num_cpus=2, num_gpus=1, memory_bytes=8 * GIB)
    placed = place(pool, [laptop], wandb=cluster.wandb)
    assert placed.num_ranks * placed.cpus_per_rank <= 2
    assert cluster.launcher.kind in {path.stem, "local"}
    assert callable(launcher_for(cluster).submit)
