"""Whether the trainings of a recipe can run on the machines of a cluster file, as `concord plan` reckons it."""

from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.load import Problem
from configs.training.train import TrainConfig
from pipeline.estimate.estimate import estimate
from pipeline.estimate.machines import are_known, lay_out
from pipeline.estimate.rows import describe_problem
from pipeline.prepare import Prepared, steps_to_make, vocab_size


def check_layouts(ready: Prepared, cluster: ClusterConfig) -> None:
    """Raise ConfigError if a training that is to be made does not fit on its pool, as far as that is known from here.

    Disk is not looked at: a run that goes on has its checkpoints there already.
    """
    problems: list[Problem] = []
    for name in steps_to_make(ready):
        step = ready.plan.steps[name]
        if not isinstance(step.config, TrainConfig) or not are_known(cluster, step.pool):
            continue
        try:
            nodes, placement = lay_out(cluster, step.pool)
            found = estimate(
                step.config,
                vocab_size=vocab_size(step, ready),
                pool=cluster.pools[step.pool],
                nodes=nodes,
                placement=placement,
                store=None,
                is_their_disk=False,
            )
            problem = describe_problem(found)
        except UserError as error:
            problem = str(error)
        if problem:
            problems.append(Problem(("steps", name), f"step {name!r} does not fit on pool {step.pool!r}: {problem}"))
    ready.loaded.fail(problems)
