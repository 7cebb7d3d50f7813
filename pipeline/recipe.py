"""A recipe is read, and what it alone decides is checked: before any stage is imported, a source read, a device asked.

What only transformers knows of a model is asked in pipeline/prepare.py, what the data decide in pipeline/data_checks.py
after the step that knows it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path

from configs.data.languages import normalize_language
from configs.data.sources import Source
from configs.data.stages import (
    CleanConfig,
    DeduplicateConfig,
    ImportTokenizerConfig,
    TokenizeConfig,
    TrainTokenizerConfig,
)
from configs.evaluation import EvaluateConfig, ReportConfig
from configs.load import Loaded, Problem, load, shipped
from configs.run import RunConfig
from configs.training.mixture import MixtureConfig
from configs.training.train import TrainConfig
from eval.tasks.observed import find_setting_problems
from pipeline.chain_checks import chain_problems
from pipeline.graph.wiring import WiredStep, as_names
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
        yield from _sample_problems(run, name)
        if isinstance(config, EvaluateConfig):
            yield from below(("steps", name, "config"), _evaluation_problems(run, name, config))
        if isinstance(config, ReportConfig) and not step.inputs:
            what = f"step {name!r} has nothing to report on; give it an input, such as `corpus` or `model`"
            yield Problem(("steps", name), what)
        yield from below(("steps", name), chain_problems(run, name))


def _evaluation_problems(run: RunConfig, name: str, config: EvaluateConfig) -> Iterator[Problem]:
    """Yield domains of sources that no corpus of an evaluation has, and files that are not where it names them."""
    sources = {source.name for source in _sources_of_corpora(run, run.steps[name].given("corpus"))}
    for domain, given in config.domains.items():
        for number, source in enumerate(given):
            if sources and source not in sources:
                close = get_close_matches(source, sources, n=1)
                meant = f"did you mean {close[0]!r}? " if close else "correct it "
                told = f"domains: no corpus has the source {source!r}; {meant}(there are: {', '.join(sorted(sources))})"
                yield Problem(("domains", domain, number), told)
    yield from (Problem(at, message) for at, message in find_setting_problems(config))


def _sources_of_corpora(run: RunConfig, corpora: Sequence[str]) -> tuple[Source, ...]:
    """Return the sources of corpora, each a step's or a source of one; none if the steps do not lead there."""
    found: list[Source] = []
    for corpus in corpora:
        cleaned = run.step_of(corpus)
        if cleaned is None or not isinstance(cleaned.config, CleanConfig):
            return ()
        own = [one for one in cleaned.config.sources if corpus == f"{run.origin(corpus)}.{one.name}"]
        found += own or cleaned.config.sources
    return tuple(found)


def vocab_size_of(run: RunConfig, name: str) -> int | None:
    """Return the size of the vocabulary of a step's tokenizer; None where the recipe does not say it."""
    made_by = run.first_of(name, "tokenizer")
    return made_by.config.vocab_size if made_by and isinstance(made_by.config, TrainTokenizerConfig) else None


def _sources_of(run: RunConfig, name: str) -> tuple[Source, ...]:
    """Return the sources of the text that a training reads; none if the steps do not lead there."""
    found: list[Source] = []
    for tokens in run.steps[name].given("tokens"):
        made_by = run.step_of(tokens)
        for corpus in made_by.given("corpus") if made_by else ():
            cleaned, parts = run.step_of(corpus), {tokens.removeprefix(f"{run.origin(tokens)}."), corpus}
            if cleaned is None or not isinstance(cleaned.config, CleanConfig):
                return ()
            own = [one for one in cleaned.config.sources if parts & {one.name, f"{run.origin(corpus)}.{one.name}"}]
            found += own or cleaned.config.sources
    return tuple(found)


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
        told = getattr(source, "language_field", None), getattr(source, "language_column", None)
        if told != (None, None):
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
    own = run.first_of(name, "tokenizer")
    for slot in ("tokens", "model", *(["init"] if keeps_rows else [])):
        for other in step.given(slot):
            theirs = run.first_of(other, "tokenizer")
            if own is None or theirs is None or (own.config, own.inputs) == (theirs.config, theirs.inputs):
                continue
            made_by = run.step_of(other)
            assert made_by is not None
            (named,) = made_by.given("tokenizer")
            yield Problem(
                ("steps", name, "inputs", "tokenizer"),
                f"step {name!r} takes tokenizer {step.given('tokenizer')[0]!r}, but {other!r} was made with {named!r}, "
                f"and its ids would mean other text; take {named!r}",
            )


def _sample_problems(run: RunConfig, name: str) -> Iterator[Problem]:
    """Yield a corpus of several sources that a tokenizer learns from without naming them."""
    step = run.steps[name]
    for given in step.given("corpus") if isinstance(step.config, TrainTokenizerConfig | ImportTokenizerConfig) else ():
        corpus = run.steps.get(given)
        if corpus is not None and isinstance(corpus.config, CleanConfig) and len(corpus.config.sources) > 1:
            names = ", ".join(f"{given}.{source.name}" for source in corpus.config.sources)
            yield Problem(
                ("steps", name, "inputs", "corpus"),
                f"step {name!r} takes all sources of {given!r}, so a source that is added would make the tokenizer and "
                f"all tokens anew; name those that it is made from: corpus: [{names}]",
            )


def text_problems(steps: Mapping[str, WiredStep]) -> Iterator[Problem]:
    """Yield what is wrong with the text that laid-out steps take: several corpora without a mask, or another's mask.

    Of the parts of a step the first is told.
    """
    firsts = {problem.location: problem for problem in reversed(list(_text_problems(steps)))}
    yield from reversed(firsts.values())


def _text_problems(steps: Mapping[str, WiredStep]) -> Iterator[Problem]:
    for step in steps.values():
        if isinstance(step.config, EvaluateConfig):
            yield from _mask_problems(step, as_names(step.inputs["corpus"]), steps, "scores on")
        if isinstance(step.config, ReportConfig) and (step.inputs.get("mask") or step.inputs.get("corpus")):
            yield from _report_problems(step, steps)
        if isinstance(step.config, DeduplicateConfig) and step.config.keeps_one_of_several:
            yield from _earlier_problems(step, steps)
        if isinstance(step.config, TokenizeConfig):
            yield from _mask_problems(step, as_names(step.inputs["corpus"]), steps, "reads")
        if isinstance(step.config, TrainConfig):
            tokens = [steps[name] for name in as_names(step.inputs["tokens"])]
            corpora = [name for one in tokens for name in as_names(one.inputs["corpus"])]
            for bare in (one for one in tokens if len(tokens) > 1 and "mask" not in one.inputs):
                yield _missing_mask(bare, f"step {step.name!r} trains on", corpora, steps)
                break
            else:
                masks = [name for one in tokens for name in as_names(one.inputs.get("mask", ()))]
                yield from _gap_problems(step, "tokens", corpora, masks, steps, "trains on")


def _mask_problems(
    step: WiredStep, corpora: Sequence[str], steps: Mapping[str, WiredStep], verb: str
) -> Iterator[Problem]:
    masks = as_names(step.inputs.get("mask", ()))
    if not masks and len(corpora) > 1:
        yield _missing_mask(step, f"step {step.name!r} {verb}", corpora, steps)
    masked = [name for mask in masks for name in as_names(steps[mask].inputs["corpus"])]
    if masks and sorted(masked) != sorted(corpora):
        yield Problem(
            ("steps", step.origin, "inputs", "mask"),
            f"step {step.name!r} {verb} {', '.join(corpora)}, and its masks are of {', '.join(masked)}; give those of "
            "the same corpora",
        )
    elif masks:
        yield from _gap_problems(step, "mask", corpora, masks, steps, verb)


def _report_problems(step: WiredStep, steps: Mapping[str, WiredStep]) -> Iterator[Problem]:
    """Yield a mask of another corpus than those that are reported on; a page may be on corpora without their masks."""
    if step.inputs.get("mask"):
        yield from _mask_problems(step, as_names(step.inputs.get("corpus", ())), steps, "reports on")


def _earlier_problems(step: WiredStep, steps: Mapping[str, WiredStep]) -> Iterator[Problem]:
    """Yield an earlier corpus whose mask is not known: what it leaves out would keep a near copy or a paragraph."""
    earlier = as_names(step.inputs.get("earlier", ()))
    masks = as_names(step.inputs.get("earlier_masks", ()))
    masked = [name for mask in masks for name in as_names(steps[mask].inputs["corpus"])]
    if sorted(masked) != sorted(earlier):
        yield Problem(
            ("steps", step.origin, "inputs", "earlier_masks" if masks else "earlier"),
            f"step {step.name!r} keeps one of several documents, so it needs the masks of its earlier corpora, "
            f"{', '.join(earlier) or 'of which it has none'}, and is given those of "
            f"{', '.join(masked) or 'none'}: give them in earlier_masks, or all corpora to one step, as `corpus`",
        )


def _gap_problems(
    step: WiredStep, slot: str, corpora: Sequence[str], masks: Sequence[str], steps: Mapping[str, WiredStep], verb: str
) -> Iterator[Problem]:
    """Yield two corpora of which neither's mask has looked at the other."""
    seen = {
        (of, earlier)
        for mask in masks
        for of in as_names(steps[mask].inputs["corpus"])
        for earlier in as_names(steps[mask].inputs.get("earlier", ()))
    }
    for one, other in combinations(corpora, 2):
        if not {(one, other), (other, one)} & seen:
            origins = ", ".join(dict.fromkeys(steps[name].origin for name in corpora))
            yield Problem(
                ("steps", step.origin, "inputs", slot),
                f"step {step.name!r} {verb} {one} and {other}, and no mask has looked for what both have; make the "
                f"masks by one step: {{stage: deduplicate, inputs: {{corpus: [{origins}]}}}}",
            )
            return


def _missing_mask(step: WiredStep, verb: str, corpora: Sequence[str], steps: Mapping[str, WiredStep]) -> Problem:
    names = ", ".join(dict.fromkeys(steps[name].origin for name in corpora))
    return Problem(
        ("steps", step.origin, "inputs"),
        f"{verb} several corpora ({', '.join(corpora)}), and step {step.origin!r} has no mask of what they have in "
        f"common; add a step `unique: {{stage: deduplicate, inputs: {{corpus: [{names}]}}}}` and `mask: unique` to its "
        "inputs",
    )


def below(location: tuple[str | int, ...], problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield the problems with their locations in what stands at `location`."""
    for problem in problems:
        yield Problem((*location, *problem.location), problem.message)
