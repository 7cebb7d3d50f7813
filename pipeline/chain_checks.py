"""What a recipe says of a training that another step takes: which checkpoint, which weights, and how it goes on."""

import math
from collections.abc import Iterator, Sequence

from configs.data.stages import CleanConfig, TokenizeConfig
from configs.evaluation import CheckpointChoice, EvaluateConfig
from configs.load import Problem
from configs.pools import RetentionConfig
from configs.run import RunConfig, Step
from configs.training.model import ModelConfig
from configs.training.train import TrainConfig
from training.checkpoint.choice import Choice
from training.checkpoint.retention import steps_to_keep
from training.manifests import counted

_OF_THE_OBJECTIVE = {"depth_scaled_init", "router_balance", "router_balance_by", "router_z", "output_z"}
"""Keys of a model that may differ between a training and the one that goes on from it."""


def chain_problems(run: RunConfig, name: str) -> Iterator[Problem]:
    """Yield what of a training that the step `name` takes cannot be taken; locations begin in the step."""
    step = run.steps[name]
    config = step.config
    if isinstance(config, EvaluateConfig) and _hold_nothing_out(run, step.given("corpus")):
        yield Problem(
            ("inputs", "corpus"),
            f"step {name!r} scores held-out documents, and {', '.join(step.given('corpus'))} holds none out "
            "(held_out.share is 0); raise it",
        )
    if isinstance(config, CheckpointChoice) and (source := _training(run, step, "model")) is not None:
        why = _why_not_validated(run, step, "model")
        yield from _choice_problems(config.checkpoint, source, why, average=config.average, at=("config",))
        if config.weights == "ema" and source.ema is None:
            yield Problem(
                ("config", "weights"),
                "weights: ema, and the training keeps no average; give it `ema`, or take `trained`",
            )
    if isinstance(config, TrainConfig) and (source := _training(run, step, "init")) is not None:
        yield from _start_problems(config, source, _why_not_validated(run, step, "init"))


def _hold_nothing_out(run: RunConfig, names: Sequence[str]) -> bool:
    """Return whether no corpus of these has a held-out document, whatever its text is."""
    configs = [step.config for name in names if (step := run.step_of(name)) is not None]
    shares = [config.held_out for config in configs if isinstance(config, CleanConfig)]
    return len(shares) == len(names) > 0 and not any(one.share or any(one.shares.values()) for one in shares)


def _why_not_validated(run: RunConfig, taker: Step, slot: str) -> str | None:
    """Return the setting for which the training that a step takes is never validated; None if it may be."""
    step = run.step_of(taker.given(slot)[0])
    if step is not None and isinstance(step.config, TrainConfig) and step.config.validation is None:
        return "validation: null"
    tokens = [made_by for name in (step.given("tokens") if step else ()) if (made_by := run.step_of(name)) is not None]
    if tokens and not any(isinstance(one.config, TokenizeConfig) and one.config.validation_bytes for one in tokens):
        return "tokens with validation_bytes: 0"
    if _hold_nothing_out(run, [name for one in tokens for name in one.given("corpus")]):
        return "a corpus with held_out.share: 0"
    return None


def _training(run: RunConfig, taker: Step, slot: str) -> TrainConfig | None:
    given = taker.given(slot)
    step = run.step_of(given[0]) if given else None
    return step.config if step is not None and isinstance(step.config, TrainConfig) else None


def _choice_problems(
    choice: Choice, source: TrainConfig, why_not_validated: str | None, *, average: int = 1, at: tuple[str, ...]
) -> Iterator[Problem]:
    every, last = source.checkpoint_every_steps, source.total_steps
    if choice == "best" and why_not_validated is not None:
        yield Problem(
            (*at, "checkpoint"),
            f"checkpoint: best, and the training has {why_not_validated}, so none is the best; take last",
        )
    if isinstance(choice, int) and (choice > last or (choice % every and choice != last)):
        yield Problem(
            (*at, "checkpoint"),
            f"checkpoint: {choice}, and the training has those of every {every} steps and of its last, {last}; take "
            "one of these",
        )
    up_to = choice if isinstance(choice, int) else last
    if average > (most := -(-up_to // every)):
        yield Problem(
            (*at, "average"),
            f"average: {average}, and the training makes {counted(most, 'checkpoint')} up to step {up_to}; lower it",
        )


def _start_problems(config: TrainConfig, source: TrainConfig, why_not_validated: str | None) -> Iterator[Problem]:
    init = config.init_from
    assert init is not None, "a step with the input `init` has init_from"
    at = ("config", "init_from")
    yield from _choice_problems(init.checkpoint, source, why_not_validated, at=at)
    if init.mode == "weights":
        return
    if config.freeze != source.freeze:
        yield Problem(
            ("config", "freeze"),
            "freeze differs from that of the training whose optimizer state is kept; keep it as it was, or start from "
            "its weights alone (mode: weights)",
        )
    for key in ("seed", "sequence_length") if init.mode == "continue" else ():
        if getattr(config, key) != getattr(source, key):
            yield Problem(
                ("config", key),
                f"{key}: {getattr(config, key)}, and in the training that goes on it is {getattr(source, key)}; "
                "another order would repeat or skip samples: keep it, or set mode: new_data",
            )
    if config.optimizer.kind != source.optimizer.kind:
        yield Problem(
            ("config", "optimizer", "kind"),
            f"optimizer.kind: {config.optimizer.kind}, and that of the training whose state is kept is "
            f"{source.optimizer.kind}; keep it, or start from its weights alone (mode: weights)",
        )
    for key in (key for key in ModelConfig.model_fields if key not in _OF_THE_OBJECTIVE):
        mine, theirs = getattr(config.model, key), getattr(source.model, key)
        if mine != theirs:
            yield Problem(
                ("config", "model", key),
                f"model.{key}: {mine}, and in the training that goes on it is {theirs}; keep it as it was",
            )
    goes_on = init.mode == "continue" or init.schedule == "continued"
    taken = init.checkpoint if isinstance(init.checkpoint, int) else source.total_steps
    if goes_on and init.checkpoint != "best" and config.total_steps <= taken:
        yield Problem(
            ("config", "num_steps" if config.num_tokens is None else "num_tokens"),
            f"{config.total_steps:,} steps, and the training that goes on has taken {taken:,} by then; its steps "
            "count, so give more",
        )


def kept_at_the_end(config: TrainConfig, rule: RetentionConfig) -> set[int]:
    """Return the steps whose checkpoints certainly stay when a training has ended."""
    every, last = config.checkpoint_every_steps, config.total_steps
    own = sorted({*range(every, last + 1, every), last})
    unknown = dict.fromkeys(own, math.nan)
    return steps_to_keep(unknown, rule, is_own=lambda _: True, sound_step=last, validation_losses={})


def retention_problems(run: RunConfig, name: str, rule: RetentionConfig, source: TrainConfig) -> Iterator[Problem]:
    """Yield what the step `name` takes of a training whose pool deletes it; locations begin in the step."""
    config = run.steps[name].config
    at: tuple[str, ...] = ("config",)
    average = 1
    if isinstance(config, CheckpointChoice):
        choice, average = config.checkpoint, config.average
    elif isinstance(config, TrainConfig) and config.init_from is not None:
        choice, at = config.init_from.checkpoint, ("config", "init_from")
    else:
        return
    kept, last = kept_at_the_end(source, rule), source.total_steps
    step = choice if isinstance(choice, int) else last
    wanted = [number for number in range(step, 0, -1) if number % source.checkpoint_every_steps == 0 or number == last]
    missing = [number for number in wanted[:average] if number not in kept]
    if choice == "best" and average > 1:  # it may be any of them
        missing = [] if rule.every_steps == source.checkpoint_every_steps else [step]
    if missing:
        what, value = ("average", average) if average > 1 else ("checkpoint", choice)
        yield Problem(
            (*at, what),
            f"{what}: {value} of step {name!r} needs checkpoints that the pool's retention deletes before the training "
            f"has ended; set retention: {{every_steps: {source.checkpoint_every_steps}}} for its pool, or take `last`",
        )
