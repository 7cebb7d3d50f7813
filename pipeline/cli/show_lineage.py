"""`concord lineage`: what artifacts were made from."""

from rich.console import Console

from configs.base import UserError
from pipeline.cli.subject import ArtifactSubject, Subject
from pipeline.runs.submit import command_words
from pipeline.store.lineage import render_lineage


def show_lineage(subject: Subject, out: Console) -> None:
    """Print what an artifact was made from, or each artifact that is wanted of a run or a recipe."""
    if isinstance(subject, ArtifactSubject):
        _print(subject, out)
        return
    for name in [subject.step] if subject.step else subject.outputs:
        artifact = subject.artifact(name)
        if not artifact.is_finished:
            run = f"; see `concord status {command_words(subject.run)}`" if subject.run else "; `concord run` makes it"
            raise UserError(
                f"{artifact.name} of step {name!r} of {subject.words} is not made yet, or no longer in the store{run}"
            )
        _print(artifact, out)


def _print(artifact: ArtifactSubject, out: Console) -> None:
    out.print(render_lineage(artifact.path, artifact.remote), markup=False)
