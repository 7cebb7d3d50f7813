"""The weights of streams: how often each source and language is drawn, in each phase of a mixture.

A phase with a budget of tokens may cap how often a stream is read. What a capped stream leaves goes to the others,
first of its source, as UniMax does (Chung et al., arXiv 2304.09151, Algorithm 1), but from any weights. The budget is
the recipe's, never the length of a training: so a longer training begins with the samples of a shorter.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from configs.base import UserError
from configs.training.mixture import MixtureConfig, PhaseConfig
from data_prep.tokens.sample_order import Phase, Stream


def plan_phases(streams: Sequence[Stream], mixture: MixtureConfig, *, sequence_length: int) -> tuple[Phase, ...]:
    """Return the phases of a mixture over streams, each with its number of samples and the weight of each stream.

    Raises UserError if weights name other sources or languages than there are, or if a phase asks for more tokens than
    its `max_epochs` allows.
    """
    phases: list[Phase] = []
    drawn = [0.0] * len(streams)  # samples of each stream in the phases before, as far as weights say
    for number, phase in enumerate(mixture.all_phases()):
        wanted = _wanted_shares(streams, phase, where=mixture.where(number))
        num_samples = None if phase.budget_tokens is None else -(-phase.budget_tokens // sequence_length)
        shares = wanted
        if num_samples is not None and phase.max_epochs is not None:
            caps = [
                max(0.0, phase.max_epochs * stream.num_samples - before)
                for stream, before in zip(streams, drawn, strict=True)
            ]
            shares = _cap(streams, wanted, caps, num_samples)
            if (most := sum(shares) * num_samples) < num_samples * (1 - 1e-9):
                raise UserError(
                    f"{mixture.where(number)}.budget_tokens is {phase.budget_tokens:,} and its max_epochs leaves "
                    f"{int(most) * sequence_length:,} tokens; lower the one, raise the other, or add text"
                )
        drawn = [before + share * (num_samples or 0) for before, share in zip(drawn, shares, strict=True)]
        phases.append(Phase(num_samples, tuple(shares)))
    return tuple(phases)


def fill(budget: float, weights: Sequence[float], caps: Sequence[float]) -> list[float]:
    """Divide a budget in proportion to weights, none above its cap; what is capped is divided among the others.

    Returns less than the budget in all only if the caps of what has a weight allow no more.
    """
    given, left = [0.0] * len(weights), budget
    # the one that reaches its cap first comes first
    order = sorted((i for i, weight in enumerate(weights) if weight > 0), key=lambda i: caps[i] / weights[i])
    rests = list(accumulate(weights[i] for i in reversed(order)))[::-1]  # the weight of each and of those after it
    for i, rest in zip(order, rests, strict=True):
        given[i] = min(caps[i], left * (weights[i] / rest))
        left -= given[i]
    return given


def _wanted_shares(streams: Sequence[Stream], phase: PhaseConfig, *, where: str) -> list[float]:
    """Return the share of each stream without caps; they sum to one."""
    _check_names("source_weights", phase.source_weights, {stream.source for stream in streams}, where=where)
    _check_names("language_weights", phase.weights_by_language, {stream.language for stream in streams}, where=where)
    total: dict[str, float] = {}
    within: dict[str, float] = {}
    for stream in streams:
        total[stream.source] = total.get(stream.source, 0.0) + stream.num_samples
        within[stream.source] = within.get(stream.source, 0.0) + _weight_in_source(stream, phase)
    of_source = {source: (phase.source_weights or total)[source] for source in total}
    whole = sum(weight for source, weight in of_source.items() if within[source] > 0)
    if whole <= 0:
        raise UserError(f"{where} gives no text a weight; give a source and a language of it one")
    return [
        of_source[stream.source] / whole * _weight_in_source(stream, phase) / within[stream.source]
        if within[stream.source] > 0
        else 0.0
        for stream in streams
    ]


def _weight_in_source(stream: Stream, phase: PhaseConfig) -> float:
    if phase.language_weights:
        return phase.weights_by_language[stream.language]
    return float(stream.num_samples ** (1 / phase.temperature))


def _check_names(key: str, weights: Mapping[str, float], known: set[str], *, where: str) -> None:
    if weights and (wrong := sorted(known ^ weights.keys())):
        kind = "source" if key == "source_weights" else "language"
        raise UserError(
            f"{where}.{key} must name each {kind} once; it differs from the corpus in {', '.join(wrong)} "
            f"(the corpus has: {', '.join(sorted(known))})"
        )


def _cap(streams: Sequence[Stream], wanted: Sequence[float], caps: Sequence[float], num_samples: int) -> list[float]:
    """Return the shares under caps: sources share what capped ones leave, and languages what their source has."""
    members: dict[str, list[int]] = {}
    for i, stream in enumerate(streams):
        members.setdefault(stream.source, []).append(i)
    budgets = fill(
        float(num_samples),
        [sum(wanted[i] for i in own) for own in members.values()],
        [sum(caps[i] for i in own if wanted[i] > 0) for own in members.values()],
    )
    shares = [0.0] * len(streams)
    for budget, own in zip(budgets, members.values(), strict=True):
        for i, given in zip(own, fill(budget, [wanted[i] for i in own], [caps[i] for i in own]), strict=True):
            shares[i] = given / num_samples
    return shares
