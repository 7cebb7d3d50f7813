"""Whether the trainings of a recipe can run on the machines of a cluster file, as `concord plan` reckons it."""

from contextlib import suppress

from cluster.placement import TooFew
from configs.base import UserError
from configs.cluster import ClusterConfig
from configs.load import Loaded, Problem
from configs.training.train import TrainConfig
from pipeline.chain_checks import retention_problems
from pipeline.estimate.estimate import estimate
from pipeline.estimate.machines import are_known, lay_out
from pipeline.estimate.member_rows import describe_left_out
from pipeline.estimate.rows import describe_problem
from pipeline.prepare import Prepared, steps_to_make, vocab_size
from pipeline.recipe import below
from training.sizing.activations import why_not_attention


def check_layouts(ready: Prepared, cluster: ClusterConfig) -> list[str]:
    """Raise ConfigError if a training that is to be made does not fit on its pool, as far as that is known from here.

    Returns a sentence on each kind of devices that a training would leave out, as `concord plan` has it. Disk is not
    looked at: a run that goes on has its checkpoints there already.
    """
    problems: list[Problem] = []
    left_out: list[str] = []
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
                work_store=ready.store,
                is_their_disk=False,
            )
            problem = describe_problem(found)
            left_out += [f"step {name!r} on pool {step.pool!r}: {words}" for words in describe_left_out(found.members)]
        except UserError as error:
            problem = str(error)
        if problem:
            problems.append(Problem(("steps", name), f"step {name!r} does not fit on pool {step.pool!r}: {problem}"))
    ready.loaded.fail(problems)
    return left_out


def check_pool_settings(ready: Prepared, cluster: Loaded[ClusterConfig]) -> None:
    """Raise ConfigError on settings of a pool that what is to be made cannot do with, where they stand.

    Such as attention that its devices or the recipe's precision do not have, and retention that deletes a checkpoint
    which a step takes.
    """
    run, to_make, pools = ready.loaded.config, steps_to_make(ready), cluster.config.pools
    attention: list[Problem] = []
    retention: list[Problem] = []
    for name in to_make:
        step = ready.plan.steps[name]
        if isinstance(step.config, TrainConfig) and are_known(cluster.config, step.pool):
            with suppress(TooFew):  # which is said beside what fits
                _, placement = lay_out(cluster.config, step.pool)
                for own in placement.members or (placement,):
                    if (reason := why_not_attention(step.config, own)) is not None:
                        attention.append(Problem(("pools", step.pool, "attention"), reason))
                        break
        training = ready.plan.steps.get(step.one("init" if isinstance(step.config, TrainConfig) else "model") or "")
        if training is not None and training.name in to_make and isinstance(training.config, TrainConfig):
            rule = pools[training.pool].retention
            retention += below(("steps", step.origin), retention_problems(run, step.origin, rule, training.config))
    cluster.fail(attention)
    ready.loaded.fail(retention)
