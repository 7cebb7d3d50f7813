"""A recipe is read, and what it alone decides is checked: before any stage is imported, a source read, a device asked.

What only transformers knows of a model is asked in pipeline/prepare.py, what the data decide in pipeline/data_checks.py
after the step that knows it.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from configs.data import CleanConfig, DocstringsSource, PackageTextSource, PlainTextSource, Source, TrainTokenizerConfig
from configs.languages import normalize_language
from configs.load import Loaded, Problem, load, shipped
from configs.run import RunConfig
from configs.training.mixture import MixtureConfig
from configs.training.train import TrainConfig
from pipeline.chain_checks import chain_problems
from training.sizing.model_check import find_table_problems


def read_recipe(recipe: Path, overrides: tuple[str, ...]) -> Loaded[RunConfig]:
    """Read a recipe, a path or the name of one that ships, and check it. Raises ConfigError with all that is wrong."""
    loaded = load(shipped("recipes", str(recipe)), RunConfig, overrides)
    loaded.fail(recipe_problems(loaded.config))
    return loaded


def recipe_problems(run: RunConfig) -> Iterator[Problem]:
    """Yield what is wrong with a recipe whose every key is right by itself. Steps may still be joined wrongly."""
    for name, step in run.steps.items():
        config = step.config
        if isinstance(config, CleanConfig):
            yield from below(("steps", name, "config"), _share_problems(config))
        if isinstance(config, TrainConfig):
            size = vocab_size_of(run, name)
            yield from below(("steps", name, "config"), find_table_problems(config, vocab_size=size))
            if sources := _sources_of(run, name):
                given = {source.name for source in sources}, languages_of(sources)
                yield from below(("steps", name, "config", "mixture"), mixture_problems(config.mixture, *given))
        yield from _tokenizer_problems(run, name)
        yield from below(("steps", name), chain_problems(run, name))


def vocab_size_of(run: RunConfig, name: str) -> int | None:
    """Return the size of the vocabulary of a step's tokenizer; None where the recipe does not say it."""
    made_by = run.steps.get(run.steps[name].inputs.get("tokenizer", ""))
    return made_by.config.vocab_size if made_by and isinstance(made_by.config, TrainTokenizerConfig) else None


def _sources_of(run: RunConfig, name: str) -> tuple[Source, ...]:
    """Return the sources of the text that a training reads; none if the steps do not lead there."""
    tokens = run.steps.get(run.steps[name].inputs.get("tokens", ""))
    corpus = run.steps.get(tokens.inputs.get("corpus", "")) if tokens else None
    return corpus.config.sources if corpus and isinstance(corpus.config, CleanConfig) else ()


def mixture_problems(mixture: MixtureConfig, names: set[str], languages: set[str] | None) -> Iterator[Problem]:
    """Yield weights that name other sources or languages than there are; locations begin in the mixture.

    `languages` is None where the data say which there are.
    """
    for number, phase in enumerate(mixture.all_phases()):
        at = ("phases", number) if mixture.phases else ()
        where = mixture.where(number)
        yield from below((*at, "source_weights"), _names(f"{where}.source_weights", phase.source_weights, names))
        if languages is not None:
            found = _names(f"{where}.language_weights", phase.weights_by_language, languages)
            yield from below((*at, "language_weights"), found)


def _names(where: str, weights: Mapping[str, float], known: set[str]) -> Iterator[Problem]:
    """Yield the names that are not known, and those that are left out, unless there are no weights at all."""
    there = f"there are: {', '.join(sorted(known))}"
    for name in weights:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            yield Problem(
                (name,), f"{where} names {name!r}, which the corpus does not have; {meant or 'correct it '}({there})"
            )
    if weights and weights.keys() <= known and (missing := sorted(known - weights.keys())):
        yield Problem((), f"{where} leaves out {', '.join(missing)}; give it a weight, 0 to leave it unread ({there})")


def languages_of(sources: Iterable[Source]) -> set[str] | None:
    """Return the languages of the documents of sources; None if the documents of one say theirs."""
    found: set[str] = set()
    for source in sources:
        if not isinstance(source, PlainTextSource | DocstringsSource):
            told = source.language_column if isinstance(source, PackageTextSource) else source.language_field
            if told is not None:
                return None
        found.add(normalize_language(source.language))
    return found


def _share_problems(config: CleanConfig) -> Iterator[Problem]:
    """Yield shares of held-out documents in a language that no document can have."""
    for key in config.held_out.shares:
        name, _, language = key.partition("/")
        known = languages_of(source for source in config.sources if name in (source.name, "*"))
        if language != "*" and known is not None and normalize_language(language) not in known:
            yield Problem(
                ("held_out", "shares", key),
                f"held_out.shares names {key!r}, and the language there is {', '.join(sorted(known))}; correct it, or "
                "leave it out",
            )


def _tokenizer_problems(run: RunConfig, name: str) -> Iterator[Problem]:
    """Yield a step whose tokenizer is not the one that its tokens, or its model, were made with."""
    step = run.steps[name]
    init = step.config.init_from if isinstance(step.config, TrainConfig) else None
    keeps_rows = init is not None and init.mode != "weights"
    for slot in ("tokens", "model", *(["init"] if keeps_rows else [])):
        own, other = step.inputs.get("tokenizer"), run.steps.get(step.inputs.get(slot, ""))
        theirs = other.inputs.get("tokenizer") if other else None
        if own is None or theirs is None or own not in run.steps or theirs not in run.steps or own == theirs:
            continue
        if (run.steps[own].config, run.steps[own].inputs) != (run.steps[theirs].config, run.steps[theirs].inputs):
            yield Problem(
                ("steps", name, "inputs", "tokenizer"),
                f"step {name!r} takes tokenizer {own!r}, but {step.inputs[slot]!r} was made with {theirs!r}, and its "
                f"ids would mean other text; take {theirs!r}",
            )


def below(location: tuple[str | int, ...], problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield the problems with their locations in what stands at `location`."""
    for problem in problems:
        yield Problem((*location, *problem.location), problem.message)
