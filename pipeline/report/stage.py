"""Stage `report`: what was made, from what, and how well it went, in one HTML file."""

from pathlib import Path

from cluster.executor import Executor
from cluster.host.redact import redact
from configs.base import Artifact, Manifest
from configs.evaluation import ReportConfig
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from eval.manifests import Scores
from pipeline.report.data import data_section
from pipeline.report.markup import NOTHING, Html, element, facts
from pipeline.report.results import bits_section, multiple_choice_section
from pipeline.report.sections import check_section, environment_section, lineage_section, time_section
from pipeline.report.style import STYLE
from pipeline.report.training import training_section
from pipeline.store.artifact import Record, load_artifact
from pipeline.store.lineage import ancestry, duration
from training.log.metrics_file import METRICS_FILE, read_metrics
from training.log.summary import seconds_by_part
from training.manifests import ExportedModel, TrainedModel

_PATH = "report.html"
_PARTS = {
    "lineage": "Lineage",
    "data": "Data",
    "training": "Training",
    "bits": "Bits per byte",
    "choice": "Multiple choice",
    "time": "Time",
    "environment": "Environment",
    "check": "How to check",
}


class Report(Manifest):
    """One page that needs nothing else: no network, no script, no font."""

    path: str
    num_bytes: int

    def summary(self) -> str:
        return f"{self.path}, {self.num_bytes / 1024:,.0f} KiB"


def report(
    config: ReportConfig,
    *,
    corpus: Artifact[CleanCorpus],
    tokens: Artifact[TokenizedCorpus],
    model: Artifact[TrainedModel],
    scores: Artifact[Scores],
    export: Artifact[ExportedModel],
    out: Path,
    executor: Executor,
) -> Report:
    """Write `report.html`. Everything in it comes from the artifacts and the records of their ancestors."""
    records = _lineage([corpus.dir, tokens.dir, model.dir, scores.dir, export.dir])
    metrics = read_metrics(model.dir / METRICS_FILE)
    inputs = (corpus, tokens, model, scores, export)
    summaries = {artifact.dir.resolve().name: artifact.manifest.summary() for artifact in inputs}
    page = render_page(
        config.title,
        _header(config.title, tokens.manifest, model.manifest, scores.manifest, records),
        lineage_section(records, _tokenizer_summary(tokens.dir, records) | summaries),
        data_section(corpus.manifest, tokens.manifest),
        training_section(model.manifest, tokens.manifest, metrics, records[model.dir.resolve().name].config),
        bits_section(scores.manifest),
        multiple_choice_section(scores.manifest.multiple_choice),
        time_section(records, seconds_by_part(metrics)),
        environment_section(records),
        check_section(records, export.dir.resolve().name),
    )
    data = redact(page).encode()
    (out / _PATH).write_bytes(data)
    return Report(path=_PATH, num_bytes=len(data))


def render_page(title: str, header: Html, *sections: Html) -> str:
    """Return the whole document."""
    head = element("title", title) + element("style", Html(STYLE))
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = element("body", header, element("main", *sections), element("footer", "Made by Concord."))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{meta}{head}</head>{body}</html>\n'


def outcome(model: TrainedModel, scores: Scores) -> str:
    """Return one sentence on how training and evaluation went."""
    margin = model.unigram_entropy - model.final_loss
    side = "below" if margin >= 0 else "above"
    loss = f"The loss ended at {model.final_loss:.2f} nats a token, {abs(margin):.2f} {side} the unigram entropy"
    if not scores.bits_per_byte:
        return f"{loss}; no held-out document was scored."
    many = len(scores.bits_per_byte)
    return f"{loss}; held-out text takes {scores.mean_bits_per_byte:.3f} bits per byte, the mean of {many:,} languages."


def _lineage(directories: list[Path]) -> dict[str, Record]:
    """Merge the ancestries of artifacts; as each is complete, inputs still come before what was made from them."""
    records: dict[str, Record] = {}
    for directory in directories:
        records |= ancestry(directory)
    return records


def _tokenizer_summary(tokens: Path, records: dict[str, Record]) -> dict[str, str]:
    """Return the tokenizer's summary by artifact name; nothing if the tokenizer is no longer in the store."""
    slots = records[tokens.resolve().name].inputs
    if (made_by := slots.get("tokenizer")) is None:
        return {}
    tokenizer = load_artifact(tokens.resolve().parent / made_by.artifact, TrainedTokenizer)
    return {made_by.artifact: tokenizer.manifest.summary()} if tokenizer else {}


def _header(
    title: str, tokens: TokenizedCorpus, model: TrainedModel, scores: Scores, records: dict[str, Record]
) -> Html:
    task = scores.multiple_choice
    figures = [
        ("parameters", _count(model.num_parameters)),
        ("tokens in the corpus", _count(tokens.num_tokens)),
        ("tokens trained on", _count(model.num_tokens)),
        ("steps", f"{model.num_steps:,}"),
        (
            f"real text told from shuffled, chance {task.chance:.0%}" if task else "real text told from shuffled",
            f"{task.total.accuracy:.1%}" if task and task.total.num_questions else NOTHING,
        ),
        ("wall time of all steps", duration(sum(record.seconds for record in records.values()))),
    ]
    links = [element("li", element("a", name, href=f"#{part}")) for part, name in _PARTS.items()]
    return element(
        "header",
        element("h1", title),
        element("p", outcome(model, scores), class_="outcome"),
        facts(figures, class_="figures"),
        element("nav", element("ul", *links), aria_label="Parts of this page"),
    )


def _count(number: int) -> str:
    """Write all digits while they fit a column of the header, else a decimal with its unit: `6.8B`."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if number >= max(size, 10**7):
            return f"{number / size:,.1f}{unit}"
    return f"{number:,}"
