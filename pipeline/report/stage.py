"""Stage `report`: what was made, from what, and how well it went, in one HTML file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from cluster.executor import Executor
from configs.base import Artifact, Manifest
from configs.evaluation import ReportConfig
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from data_prep.masks.manifest import Mask
from data_prep.sources.document import Digest
from data_prep.tokens.join import join_tokens
from eval.manifests import Scores
from pipeline.report.cleaning import cleaning_part
from pipeline.report.data import data_part
from pipeline.report.generations import writing_parts
from pipeline.report.page import check_templates, list_files, render_page
from pipeline.report.provenance import (
    checksum_lines,
    environment_part,
    fingerprints_table,
    lineage_steps,
    time_part,
)
from pipeline.report.raw import write_raw
from pipeline.report.recipe import write_recipe
from pipeline.report.results import scores_parts
from pipeline.report.tasks import headlines
from pipeline.report.training import Series, TrainingPart, read_series, training_part
from pipeline.store.artifact import Record, load_artifact
from pipeline.store.lineage import GONE, ancestry, duration
from training.log.metrics_file import METRICS_FILE, iterate_metrics
from training.manifests import ExportedModel, TrainedModel, counted

REPORT_FILE = "report.html"

_SINGLE = ("model", "scores", "export")
"""Inputs of one artifact each."""

_NOTED_RISE = 0.01
"""Nats by which the held-out loss ends above its lowest before the page says so in its first sentence."""


class Report(Manifest):
    """One page that needs nothing else: no network, no script from elsewhere, no font. Raw numbers are beside it."""

    path: str
    num_bytes: int
    contains_text: bool = False
    """Whether the page shows text of the sources: samples of what filters dropped, or of what the model goes on."""

    def summary(self) -> str:
        return f"{self.path}, {self.num_bytes / 1024:,.0f} KiB"

    def main_file(self) -> str:
        return self.path


@dataclass(frozen=True)
class ExportPart:
    """Where the exported model is, and how to load it. Paths are relative to the store, which may move."""

    artifact: str
    path: str
    summary: str
    code: str
    checksums: str


def observe_templates(config: ReportConfig, digest: Digest) -> JsonValue:
    """Return the digests of the user's own templates, by name; None for the shipped ones, which the version covers."""
    if config.templates is None:
        return None
    files = list_files(config.templates)
    return {str(file.relative_to(config.templates)): digest(file) for file in files}


def check_report(config: ReportConfig) -> None:
    """Raise UserError if the user's own templates cannot make a page."""
    check_templates(config.templates)


def report(
    config: ReportConfig,
    *,
    model: Artifact[TrainedModel] | None = None,
    corpus: tuple[Artifact[CleanCorpus], ...] = (),
    mask: tuple[Artifact[Mask], ...] = (),
    tokens: tuple[Artifact[TokenizedCorpus], ...] = (),
    scores: Artifact[Scores] | None = None,
    export: Artifact[ExportedModel] | None = None,
    out: Path,
    executor: Executor,
) -> Report:
    """Write `report.html`, and the scores as CSV and JSON. All comes from the artifacts and their ancestors' records.

    Parts whose input the recipe leaves out are left out of the page; one is there.
    """
    slots = {"corpus": corpus, "mask": mask, "tokens": tokens, "model": model, "scores": scores, "export": export}
    given = {slot: _listed(one) for slot, one in slots.items() if one}
    names = {slot: _name(own[0]) if slot in _SINGLE else [_name(one) for one in own] for slot, own in given.items()}
    artifacts = [artifact for own in given.values() for artifact in own]
    records = _merge_ancestries([artifact.dir for artifact in artifacts])
    series = read_series(iterate_metrics(model.dir / METRICS_FILE)) if model else Series()
    tokenized = join_tokens(tokens).manifest if tokens else None
    trained, scored = model.manifest if model else None, scores.manifest if scores else None
    training = training_part(model, tokenized, series, records[_name(model)].config) if model else None
    data = data_part([one.manifest for one in corpus], [one.manifest for one in mask], tokenized) if corpus else None
    summaries = {_name(artifact): artifact.manifest.summary() for artifact in artifacts}
    time = time_part(records, series.seconds, config.prices, config.currency)
    values: dict[str, Any] = {
        "title": config.title,
        "outcome": outcome(trained, scored, data.corpus if data else None),
        "figures": _figures(trained, tokenized, scored, records, time.cost),
        "gone": GONE,
        "export": _export_part(export, _name(export), records) if export else None,
        "lineage": lineage_steps(records, _tokenizer_summaries(artifacts[0].dir, records) | summaries),
        "data": data,
        "cleaning": cleaning_part(corpus, mask, data.corpus.counts) if data else None,
        "training": training,
        "window": _window(training) if training else "",
        **scores_parts(scored),
        "writing": writing_parts(scores.dir) if scores else None,
        "raw": write_raw(scores.manifest, out) if scores else [],
        "time": time,
        "environment": environment_part(records),
        "recipe": write_recipe(records, title=config.title, config=config.model_dump(mode="json"), inputs=names),
        "fingerprints": fingerprints_table(records),
    }
    page = render_page(config.templates, values | {"parts": _parts(values)}).encode()
    (out / REPORT_FILE).write_bytes(page)
    return Report(path=REPORT_FILE, num_bytes=len(page), contains_text=_shows_text(values))


def _shows_text(values: Mapping[str, Any]) -> bool:
    cleaning = values["cleaning"]
    return bool(values["writing"]) or (cleaning is not None and any(one.samples for one in cleaning.languages))


def _listed(given: Any) -> tuple[Artifact[Any], ...]:
    """Return the artifacts that fill a slot."""
    return given if isinstance(given, tuple) else (given,)


def _name(artifact: Artifact[Any]) -> str:
    return artifact.dir.resolve().name


def outcome(model: TrainedModel | None, scores: Scores | None, corpus: CleanCorpus | None = None) -> str:
    """Return one sentence on how training and evaluation went; without a model, on what else there is."""
    if model is None:
        has_bits = scores is not None and scores.bits_per_byte
        scored = f"Held-out text takes {scores.mean_bits_per_byte:.3f} bits per byte." if scores and has_bits else ""
        return scored or (f"{corpus.summary()}." if corpus else "No model and no corpus are on this page.")
    margin = model.unigram_entropy - model.final_loss
    side = "below" if margin >= 0 else "above"
    loss = f"The loss ended at {model.final_loss:.2f} nats a token, {abs(margin):.2f} {side} the unigram entropy"
    if model.validation_loss is not None and model.best_validation_loss is not None:
        rise = model.validation_loss - model.best_validation_loss
        loss += f", on held-out text at {model.validation_loss:.2f}"
        loss += f", {rise:.2f} above its lowest" if rise >= _NOTED_RISE else ""
    if scores is None:
        return f"{loss}."
    if not scores.bits_per_byte:
        return f"{loss}; no held-out document was scored."
    many = len(scores.bits_per_byte)
    return f"{loss}; held-out text takes {scores.mean_bits_per_byte:.3f} bits per byte, the mean of {many:,} languages."


def loading_code(path: str) -> str:
    """Return the three lines of Python that load an exported model and its tokenizer."""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({path!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({path!r})"
    )


def _merge_ancestries(directories: list[Path]) -> dict[str, Record]:
    """Merge the ancestries of artifacts; as each is complete, inputs still come before what was made from them."""
    records: dict[str, Record] = {}
    for directory in directories:
        records |= ancestry(directory)
    return records


def _tokenizer_summaries(artifact: Path, records: Mapping[str, Record]) -> dict[str, str]:
    """Return the summary of each tokenizer among the ancestors, by artifact name, as far as they are in the store."""
    store = artifact.resolve().parent
    tokenizers = {
        name: load_artifact(store / name, TrainedTokenizer)
        for name, record in records.items()
        if record.stage in ("train_tokenizer", "import_tokenizer")
    }
    return {name: found.manifest.summary() for name, found in tokenizers.items() if found}


def _export_part(export: Artifact[ExportedModel], name: str, records: Mapping[str, Record]) -> ExportPart:
    path = f"{name}/{export.manifest.path}"
    summary = export.manifest.summary().partition(": ")[2]
    return ExportPart(name, path, summary, loading_code(path), checksum_lines(records[name]))


def _figures(
    model: TrainedModel | None,
    tokens: TokenizedCorpus | None,
    scores: Scores | None,
    records: Mapping[str, Record],
    cost: str,
) -> list[tuple[str, str]]:
    trained = [("tokens trained on", _count(model.num_tokens)), ("steps", f"{model.num_steps:,}")] if model else []
    return [
        *([("parameters", _count(model.num_parameters))] if model else []),
        *([("tokens in the corpus", _count(tokens.num_tokens))] if tokens else []),
        *trained,
        *(headlines(scores) if scores else []),
        ("wall time of all steps", duration(sum(record.seconds for record in records.values()))),
        *([("cost of all steps", cost)] if cost else []),
    ]


def _window(training: TrainingPart) -> str:
    return f"Nats a token over the last {counted(training.window_steps, 'step')}; lower is better."


def _parts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the id and the name of each part that the page has."""
    parts = [
        ("model", "Load the model", values["export"] is not None),
        ("training", "Training", values["training"] is not None),
        ("bits", "Bits per byte", values["bits"] is not None),
        ("tasks", "Tasks", values["tasks"] is not None),
        ("writing", "What the model writes", values["writing"] is not None),
        ("numbers", "Raw numbers", bool(values["raw"])),
        ("data", "Data", values["data"] is not None),
        ("cleaning", "Cleaning", values["cleaning"] is not None),
        ("lineage", "Lineage", True),
        ("time", "Time", True),
        ("environment", "Environment", True),
        ("recipe", "Recipe", True),
        ("check", "How to check", True),
    ]
    return [(identifier, name) for identifier, name, there in parts if there]


def _count(number: int) -> str:
    """Write all digits while they fit a column of the header, else a decimal with its unit: `6.8B`."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= max(size, 10**7):
            return f"{number / size:,.1f}{unit}"
    return f"{number:,}"
