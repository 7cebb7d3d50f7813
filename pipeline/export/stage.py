"""The stage that exports a model: a Hugging Face directory, and the model card in it."""

from pathlib import Path

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.base import Artifact
from configs.evaluation import ExportConfig
from data_prep.manifests import TrainedTokenizer
from eval.manifests import Scores
from pipeline.export.card import write_card
from pipeline.store.lineage import ancestry
from training.export import export_model
from training.manifests import ExportedModel, TrainedModel

CARD = "README.md"


def export(
    config: ExportConfig,
    *,
    model: Artifact[TrainedModel],
    tokenizer: Artifact[TrainedTokenizer],
    scores: Artifact[Scores] | None = None,
    out: Path,
    executor: Executor,
) -> ExportedModel:
    """Write the model's directory, and a card that says what it was made from: by the records of its ancestors.

    Scores stand in the card if the recipe gives them.
    """
    made = export_model(config, model=model, tokenizer=tokenizer, out=out, executor=executor)
    card = write_card(
        made,
        config,
        records=ancestry(model.dir),
        model=model,
        tokenizer=tokenizer.manifest,
        scores=scores.manifest if scores else None,
    )
    write_text(out / made.path / CARD, card)
    return made.model_copy(update={"num_bytes": made.num_bytes + len(card.encode())})
