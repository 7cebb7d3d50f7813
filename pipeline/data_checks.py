"""What the data decide is said as soon as a step knows it, before a step that is made from it waits for devices."""

from collections.abc import Collection, Iterator

from configs.base import Artifact, Manifest, UserError
from configs.evaluation import EvaluateConfig
from configs.load import Problem
from configs.training.train import TrainConfig
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from eval.stage import check_held_out
from pipeline.graph.plan import Plan
from pipeline.recipe import below, mixture_problems
from training.data.epochs import plan_epochs
from training.init.continued import find_order_problems
from training.network.model_rules import find_rule_problems


def deciding_steps(plan: Plan, name: str) -> tuple[str, ...]:
    """Return the steps whose results decide whether the step `name` can be made."""
    step = plan.steps[name]
    if isinstance(step.config, EvaluateConfig):
        return (step.inputs["corpus"],)
    if not isinstance(step.config, TrainConfig):
        return ()
    tokens = step.inputs["tokens"]
    return plan.steps[tokens].inputs["corpus"], step.inputs["tokenizer"], tokens


def data_problems(plan: Plan, name: str, made: Artifact[Manifest], to_make: Collection[str]) -> Iterator[Problem]:
    """Yield why steps that are to be made cannot be made from what a finished step, `name`, has made."""
    for other in to_make:
        if name not in deciding_steps(plan, other):
            continue
        config = plan.steps[other].config
        if isinstance(config, EvaluateConfig):
            yield from below(("steps", other, "config"), _evaluation_problems(made.manifest))
        if isinstance(config, TrainConfig):
            source = _source_of(plan, other)
            yield from below(("steps", other, "config"), _training_problems(config, made, source=source))


def _evaluation_problems(corpus: Manifest) -> Iterator[Problem]:
    try:
        if isinstance(corpus, CleanCorpus):
            check_held_out(corpus)
    except UserError as error:
        yield Problem((), str(error))


def _source_of(plan: Plan, name: str) -> TrainConfig | None:
    """Return the training that another takes as its input `init`, if both read the same tokens."""
    step = plan.steps[name]
    source = plan.steps.get(step.inputs.get("init", ""))
    if source is None or not isinstance(source.config, TrainConfig) or source.inputs["tokens"] != step.inputs["tokens"]:
        return None
    return source.config


def _training_problems(
    config: TrainConfig, made: Artifact[Manifest], *, source: TrainConfig | None
) -> Iterator[Problem]:
    manifest = made.manifest
    if isinstance(manifest, CleanCorpus):
        kept = [count for count in manifest.counts if count.num_kept]
        names, languages = {count.source for count in kept}, {count.language for count in kept}
        yield from below(("mixture",), mixture_problems(config.mixture, names, languages))
    elif isinstance(manifest, TrainedTokenizer):
        yield from find_rule_problems(config, vocab_size=manifest.vocab_size)
        if (init := config.init_from) is not None and init.mode == "weights" and init.path:
            from training.init.fill import check_init_weights

            try:
                check_init_weights(config, init, tokenizer=Artifact(made.dir, manifest))
            except UserError as error:
                yield Problem(("init_from",), str(error))
    elif isinstance(manifest, TokenizedCorpus):
        tokens = Artifact(made.dir, manifest)
        try:
            plan_epochs(tokens, config)
        except UserError as error:
            yield Problem((), str(error))
        else:
            yield from find_order_problems(config, tokens, source=source)
