"""The part of the report about training: the loss over the steps and by stream, speed, and what went wrong."""

import math
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from data_prep.manifests import TokenizedCorpus
from pipeline.report.charts import Bar, Reference, bar_chart, line_chart
from pipeline.report.markup import Html, element, facts, section, table
from pipeline.report.sections import figure, settings_rows, split
from training.log.metrics_file import StepMetrics
from training.log.summary import last_window
from training.manifests import TrainedModel, counted


def training_section(
    model: TrainedModel, tokens: TokenizedCorpus, metrics: Sequence[StepMetrics], config: dict[str, JsonValue]
) -> Html:
    """Show the loss against that of a model without context, the speed, what went wrong, and the settings."""
    note = (
        "Dashed: the loss of the best model that ignores context (unigram entropy), and of one that finds every piece "
        "of the vocabulary equally likely (its logarithm). The number at the end is the last step's loss; the "
        "final loss is the mean of the last ten."
    )
    window = f"Nats a token over the last {counted(len(last_window(metrics)), 'step')}; lower is better."
    return section(
        "training",
        "Training",
        element("p", model.summary(), "."),
        element("p", _time_well_spent(model), " ", _utilisation(model)),
        figure("Loss", note, _loss(model, tokens, metrics)),
        element("div", *_small_charts(metrics), class_="side"),
        figure("Loss by language", window, _losses(model.loss_by_language, "language")),
        figure("Loss by source", window, _losses(model.loss_by_source, "source")),
        *_rollbacks(model),
        element("h3", "Settings"),
        facts(settings_rows(config), class_="facts settings"),
    )


def _time_well_spent(model: TrainedModel) -> str:
    restarts = f"with {counted(model.num_restarts, 'restart')}" if model.num_restarts else "without a restart"
    return f"{model.goodput:.1%} of the time of training went into steps that stand (goodput), {restarts}."


def _utilisation(model: TrainedModel) -> str:
    speed = f"The median speed was {model.tokens_per_second:,.0f} tokens a second"
    if model.mfu is None:
        return f"{speed}; model FLOPs utilisation is unknown for this device."
    return f"{speed}, a model FLOPs utilisation (MFU) of {model.mfu:.1%} of the bf16 peak of its devices."


def _loss(model: TrainedModel, tokens: TokenizedCorpus, metrics: Sequence[StepMetrics]) -> Html:
    references = (
        Reference("ln(vocabulary)", math.log(tokens.vocab_size)),
        Reference("unigram entropy", model.unigram_entropy),
    )
    return line_chart(
        [(step.step, step.loss) for step in metrics],
        title=f"Loss by step, from {model.first_loss:.2f} to {model.final_loss:.2f} nats a token",
        x_label="step",
        y_label="nats a token",
        references=references,
        height=320,
    )


def _small_charts(metrics: Sequence[StepMetrics]) -> list[Html]:
    rate = [(step.step, step.learning_rate) for step in metrics]
    speed = [(step.step, step.tokens_per_second) for step in metrics]
    norm = [(step.step, step.gradient_norm) for step in metrics]
    return [
        figure(name, "", line_chart(points, title=title, x_label="step", y_label=unit, from_zero=True, height=150))
        for name, title, unit, points in (
            ("Learning rate", "Learning rate by step", "", rate),
            ("Speed", "Tokens a second by step", "tokens a second", speed),
            ("Gradient norm", "Gradient norm by step, before clipping", "", norm),
        )
    ]


def _losses(losses: Mapping[str, float], what: str) -> Html:
    """Draw a bar for each stream, from the lowest loss to the highest."""
    ordered = sorted(losses.items(), key=lambda item: (item[1], item[0]))
    bars = [Bar(name, loss, f"{loss:.3f}") for name, loss in ordered]
    charts = [
        bar_chart(run, title=f"Loss by {what}, {run[0].label} to {run[-1].label}", maximum=bars[-1].value)
        for run in split(bars)
    ]
    return element("div", *charts, class_="side charts")


def _rollbacks(model: TrainedModel) -> list[Html]:
    if not model.rollbacks:
        return []
    rows = [(r.reason, f"{r.at_step:,}", f"{r.to_step:,}", f"{r.skipped[1] - r.skipped[0]:,}") for r in model.rollbacks]
    return [table("Roll-backs", ("Reason", "At step", "Back to step", "Samples left out"), rows)]
