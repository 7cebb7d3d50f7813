"""What the data decide is said as soon as a step knows it, before a step that is made from it waits for devices."""

from collections.abc import Callable, Collection, Iterator, Sequence

from configs.base import Artifact, Manifest, UserError
from configs.evaluation import EvaluateConfig
from configs.load import Problem
from configs.training.train import TrainConfig
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from data_prep.masks.manifest import Mask
from data_prep.tokens.join import join_tokens
from eval.stage import check_held_out
from pipeline.graph.plan import Plan
from pipeline.recipe import below, mixture_problems
from training.data.epochs import plan_epochs
from training.init.continued import find_order_problems
from training.network.model_rules import find_rule_problems

Find = Callable[[str], Artifact[Manifest] | None]
"""Returns the artifact of a step, if it is finished."""


def deciding_steps(plan: Plan, name: str) -> tuple[str, ...]:
    """Return the steps whose results decide whether the step `name` can be made."""
    step = plan.steps[name]
    if isinstance(step.config, EvaluateConfig):
        return (*step.listed("corpus"), *step.listed("mask"))
    if not isinstance(step.config, TrainConfig):
        return ()
    tokens = step.listed("tokens")
    corpora = [name for one in tokens for name in plan.steps[one].listed("corpus")]
    return (*dict.fromkeys(corpora), *step.listed("tokenizer"), *tokens)


def data_problems(plan: Plan, name: str, find: Find, to_make: Collection[str]) -> Iterator[Problem]:
    """Yield why steps that are to be made cannot be made from what a step that is finished, `name`, has made.

    Where others decide together with it, that is when the last of them is finished.
    """
    for other in to_make:
        step = plan.steps[other]
        if name not in deciding_steps(plan, other):
            continue
        at = ("steps", step.origin, "config")
        kind = plan.steps[name].stage
        together = [one for one in deciding_steps(plan, other) if plan.steps[one].stage == kind]
        made: list[Artifact[Manifest]] = []
        for one in reversed(together):  # the last ones are made last
            if (artifact := find(one)) is None:
                break
            made.insert(0, artifact)
        if len(made) < len(together):
            continue
        if isinstance(step.config, EvaluateConfig):
            known = (found.manifest for one in deciding_steps(plan, other) if (found := find(one)) is not None)
            yield from below(at, _evaluation_problems(list(known)))
        if isinstance(step.config, TrainConfig):
            yield from below(at, _training_problems(step.config, made, source=_source_of(plan, other)))


def _evaluation_problems(made: Sequence[Manifest]) -> Iterator[Problem]:
    """Yield what is wrong with corpora and, once they are made, their masks."""
    masks = [one for one in made if isinstance(one, Mask)]
    try:
        check_held_out([one for one in made if isinstance(one, CleanCorpus)], masks)
    except UserError as error:
        yield Problem((), str(error))


def _source_of(plan: Plan, name: str) -> TrainConfig | None:
    """Return the training that another takes as its input `init`, if both read the same tokens."""
    step = plan.steps[name]
    source = plan.steps.get(step.one("init") or "")
    if source is None or not isinstance(source.config, TrainConfig) or source.inputs["tokens"] != step.inputs["tokens"]:
        return None
    return source.config


def _training_problems(
    config: TrainConfig, made: Sequence[Artifact[Manifest]], *, source: TrainConfig | None
) -> Iterator[Problem]:
    corpora = [artifact.manifest for artifact in made if isinstance(artifact.manifest, CleanCorpus)]
    tokens = [Artifact(one.dir, one.manifest) for one in made if isinstance(one.manifest, TokenizedCorpus)]
    if corpora:
        kept = [count for corpus in corpora for count in corpus.counts if count.num_kept]
        names, languages = {count.source for count in kept}, {count.language for count in kept}
        yield from below(("mixture",), mixture_problems(config.mixture, names, languages))
    elif tokens:
        joined = join_tokens(tokens)
        try:
            plan_epochs(joined, config)
        except UserError as error:
            yield Problem((), str(error))
        else:
            yield from find_order_problems(config, joined, source=source)
    elif isinstance(manifest := made[0].manifest, TrainedTokenizer):
        yield from find_rule_problems(config, vocab_size=manifest.vocab_size)
        if (init := config.init_from) is not None and init.mode == "weights" and init.path:
            from training.init.fill import check_init_weights

            try:
                check_init_weights(config, init, tokenizer=Artifact(made[0].dir, manifest))
            except UserError as error:
                yield Problem(("init_from",), str(error))
