"""The model card: what a model is, what it was made from, how to load it, for people and for the Hugging Face Hub."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.base import Artifact
from configs.evaluation import ExportConfig
from data_prep.manifests import CleanCorpus, CorpusCount, TrainedTokenizer
from data_prep.masks.manifest import Mask
from data_prep.masks.reading import masked_counts
from eval.families import Family, find_families
from eval.manifests import Scores
from pipeline.graph.config_diff import flatten
from pipeline.store.artifact import Record
from pipeline.store.lineage import shorten_digests
from training.manifests import ExportedModel, TrainedModel, counted
from training.records import step_of

_SETTINGS = (
    "model",
    "sequence_length",
    "global_batch_size",
    "num_steps",
    "num_tokens",
    "batch_ramp",
    "optimizer",
    "schedule",
    "ema",
    "mixture",
    "precision",
    "seed",
)
"""Settings of a training that the card shows, each with all of its keys that are set."""

_NOT_STATED = "not stated"


def write_card(
    made: ExportedModel,
    config: ExportConfig,
    *,
    records: Mapping[str, Record],
    model: Artifact[TrainedModel],
    tokenizer: TrainedTokenizer,
    scores: Scores | None,
) -> str:
    """Return the text of the card. `records` are those of the model and its ancestors, by artifact name."""
    trained = records[model.dir.resolve().name]
    corpora = _text_records(trained, records, "corpus")
    masks = [Mask.model_validate(record.manifest) for record in _text_records(trained, records, "mask")]
    counts = masked_counts([CleanCorpus.model_validate(corpus.manifest) for corpus in corpora], masks)
    parts = [
        _front_matter(config, model.manifest, counts, scores, name=trained.step),
        *_introduction(made, model.manifest, tokenizer, trained),
        *_data(corpora, counts),
        *_training(made, config, model.manifest, trained),
        *(_scores(scores) if scores else []),
        *_tokenizer(tokenizer),
        *_origin(trained),
    ]
    return "\n".join(parts) + "\n"


def _text_records(trained: Record, records: Mapping[str, Record], slot: str) -> list[Record]:
    """Return the records of what a training's tokens took as an input, of those that are in the store."""
    read = [records[made_from.artifact] for _, made_from in trained.all_inputs() if made_from.artifact in records]
    names = [one.artifact for record in read if record.stage == "tokenize" for one in record.given(slot)]
    return [records[name] for name in dict.fromkeys(names) if name in records]


def _front_matter(
    config: ExportConfig, model: TrainedModel, counts: Sequence[CorpusCount], scores: Scores | None, *, name: str
) -> str:
    """Return the metadata that the Hub reads, as YAML whose values are JSON."""
    languages = sorted({code for count in counts if count.num_kept and (code := hub_language(count.language))})
    values: dict[str, Any] = {
        **({"language": languages} if languages else {}),
        **({"license": config.license} if config.license else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": [model.architecture, "concord", *(["multilingual"] if len(languages) > 1 else [])],
    }
    if scores:
        metrics = [{"type": "bits_per_byte", "name": "bits per byte", "value": round(scores.mean_bits_per_byte, 4)}]
        metrics += [
            {"type": _metric(family), "name": family.label, "value": round(family.value, 4)}
            for family in find_families(scores)
            if family.chance is not None and family.is_headline
        ]
        held_out = {"type": "held-out", "name": "documents held out of training"}
        result = {"task": {"type": "text-generation"}, "dataset": held_out, "metrics": metrics}
        values["model-index"] = [{"name": name, "results": [result]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def hub_language(tag: str) -> str | None:
    """Return the language code in a corpus's tag, of two or three letters, as the Hub takes it: `sw` of `sw_Latn`."""
    code = re.split("[-_]", tag)[0]
    return code if re.fullmatch("[a-z]{2,3}", code) and code != "und" else None


def _introduction(
    made: ExportedModel, model: TrainedModel, tokenizer: TrainedTokenizer, trained: Record
) -> Iterator[str]:
    yield f"# {trained.step}"
    yield ""
    yield (
        f"A base model of architecture {model.architecture}: {model.num_parameters:,} parameters, "
        f"{trained.config['sequence_length']} tokens of context, {tokenizer.vocab_size:,} rows of vocabulary, "
        f"{made.dtype}. It goes on with a text; it was not trained to follow instructions."
    )
    yield from ("", "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", "")
    yield 'path = "."  # this directory, or its name on the Hub'
    yield "model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)"
    yield from ("```", "", f"It needs transformers {made.minimum_transformers} or newer.")
    if init := trained.config.get("init_from"):
        assert isinstance(init, dict)
        given = [made_from.artifact for made_from in trained.given("init")]
        weights = given[0] if given else Path(str(init["path"])).name
        yield from ("", f"Training began with the weights `{weights}`, whose licence and limits hold here, too.")


def _data(corpora: Sequence[Record], counts: Sequence[CorpusCount]) -> Iterator[str]:
    yield from ("", "## Data", "")
    if not corpora:
        yield "The record of the corpus is no longer in the store that this was exported from."
        return
    licenses: dict[str, str] = {}
    for corpus in corpora:
        sources: Any = corpus.config["sources"]
        licenses |= {source["name"]: source.get("license") or _NOT_STATED for source in sources}
    rows = [
        (name, licenses[name], ", ".join(sorted({c.language for c in own if c.num_kept})), *_sizes(own))
        for name, own in _grouped(counts, "source").items()
    ]
    yield from _table(("Source", "Licence", "Languages", "Documents", "Bytes"), rows)
    yield ""
    by_language = sorted(_grouped(counts, "language").items(), key=lambda item: -sum(c.kept_bytes for c in item[1]))
    yield from _table(("Language", "Documents", "Bytes"), [(name, *_sizes(own)) for name, own in by_language])


def _training(made: ExportedModel, config: ExportConfig, model: TrainedModel, trained: Record) -> Iterator[str]:
    yield from ("", "## Training", "")
    yield (
        f"{model.num_steps:,} steps over {model.num_tokens:,} tokens. The loss ended at {model.final_loss:.3f} nats a "
        f"token, {model.bits_per_byte:.3f} bits a byte of training text{_held_out(model)}. "
        f"{_weights(made, config, model)}"
    )
    yield ""
    shown = {key: trained.config[key] for key in _SETTINGS if key in trained.config}
    values = [(key, json.dumps(value)) for key, value in flatten(shown) if value not in (None, {}, [])]
    yield from _table(("Setting", "Value"), [(key, f"`{value}`") for key, value in values])


def _held_out(model: TrainedModel) -> str:
    if model.validation_loss is None:
        return ""
    return f"; on held-out text at {model.validation_loss:.3f}, {model.validation_bits_per_byte:.3f} bits a byte"


def _weights(made: ExportedModel, config: ExportConfig, model: TrainedModel) -> str:
    """Return which weights of the training these are."""
    average = " (their exponential moving average)" if config.weights == "ema" else ""
    if config.average > 1:
        return (
            f"The weights{average} are the mean over {config.average} checkpoints, the last that of step {made.step:,}."
        )
    is_best = model.best_checkpoint is not None and made.step == step_of(Path(model.best_checkpoint))
    at = f", where held-out text was at {model.best_validation_loss:.3f} nats a token, the lowest" if is_best else ""
    return f"The weights{average} are those after step {made.step:,}{at if made.step != model.num_steps else ''}."


def _scores(scores: Scores) -> Iterator[str]:
    yield from ("", "## Scores", "")
    yield f"On documents held out of training: {scores.summary()}."
    yield ""
    rows = [
        (name, f"{one.bits_per_byte:.4f}", _interval(one.low, one.high, "{:.3f}"), f"{one.num_documents:,}")
        for name, one in scores.bits_per_byte.items()
    ]
    yield from _table(("Language", "Bits per byte", "95% interval", "Documents"), rows)
    if families := find_families(scores):
        yield ""
        yield from _table(("Task", "Languages", "Score", "95% interval", "Chance"), [_task(one) for one in families])
    for family in families:
        if not family.is_sound:
            yield ""
            yield f"{family.name}: an untrained network does not score chance in it, so it says nothing of knowledge."
    choices = [family for family in families if family.chance is not None]
    if unchecked := [family.name for family in choices if family.is_sound and not family.is_headline]:
        yield ""
        yield f"Not asked of an untrained network, so no result of the front matter: {', '.join(unchecked)}."


def _metric(family: Family) -> str:
    return "accuracy" if family.higher_is_better else family.scores[0].metric


def _task(family: Family) -> tuple[str, ...]:
    shown = "{:.1%}" if family.chance is not None else "{:.3f}"
    low, high = family.interval or (None, None)
    chance = "" if family.chance is None else shown.format(family.chance)
    return (
        family.label,
        f"{len(family.scores):,}",
        shown.format(family.value),
        _interval(low, high, shown),
        chance,
    )


def _interval(low: float | None, high: float | None, shown: str) -> str:
    return "" if low is None or high is None else f"{shown.format(low)} to {shown.format(high)}"


def _tokenizer(tokenizer: TrainedTokenizer) -> Iterator[str]:
    proof = tokenizer.certificate
    yield from ("", "## Tokenizer", "")
    real = (
        f", real ones in {counted(proof.num_languages, 'language')} and adversarial ones" if proof.num_languages else ""
    )
    yield (
        f"Each of these gives the ids of training, compared on {counted(proof.num_texts, 'text')}{real}. Where one "
        "names a flag, a text that spells a special piece is plain text only with it:"
    )
    yield ""
    yield from (f"- {loader}" for loader in proof.loaders)
    if proof.num_changed:
        yield from ("", f"Of these texts, {proof.num_changed:,} are decoded to others, such as normalised ones.")
    for note in proof.notes:
        yield from ("", f"{note[:1].upper()}{note[1:]}.")


def _origin(trained: Record) -> Iterator[str]:
    yield from ("", "## Origin", "")
    yield (
        f"Made with Concord, code {shorten_digests(trained.code)}; the training's fingerprint is "
        f"`{trained.fingerprint}`."
    )


def _grouped(counts: Sequence[CorpusCount], key: str) -> dict[str, list[CorpusCount]]:
    groups: defaultdict[str, list[CorpusCount]] = defaultdict(list)
    for count in counts:
        groups[getattr(count, key)].append(count)
    return groups


def _sizes(counts: Sequence[CorpusCount]) -> tuple[str, str]:
    return f"{sum(count.num_kept for count in counts):,}", f"{sum(count.kept_bytes for count in counts):,}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from (_row(heads), _row(["---"] * len(heads)), *map(_row, rows))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
