"""A task that is to be scored, whoever asks the model. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.evaluation import CONTINUATION
from configs.tasks import Kind

BITS_PER_BYTE, BITS_PER_SENTENCE, GENERATIONS = "bits_per_byte", "bits_per_sentence", "generations"
RESERVED = (CONTINUATION, BITS_PER_BYTE, BITS_PER_SENTENCE, GENERATIONS)
"""Names that answers have already."""


@dataclass(frozen=True)
class Task:
    """A task that is to be scored."""

    name: str
    """The name that the scores have for it."""

    family: str
    """The name without the language."""

    lm_eval_name: str
    file: Path | None
    """YAML file of lm-eval's task, which other files may belong to; None for what is made here."""

    language: str
    """Label of its language, `und` if it is of none or of several."""

    kind: Kind | None
    """None where only lm-eval's file tells."""

    suite: str = ""
    formulation: str = "none"
    metric: str | None = None
    """None: the first that lm-eval's file names."""

    chance: float | None = None
    num_fewshot: int | None = None
    cluster: str | None = None
    licence: str = ""
    source: str = ""
    revision: str | None = None
    digest: str | None = None
    version: str = "1"
    files: tuple[tuple[str, Path], ...] = ()
    """For each split its file, if the data are on this machine's disks; else lm-eval asks the Hub."""

    columns: tuple[str, ...] = ()
    overrides: tuple[tuple[str, Any], ...] = ()
    """Keys of lm-eval's task that are set otherwise."""

    adapter: str = "lm_eval"
    """What asks the model (configs/tasks.py), with the keys that follow."""

    function: str = ""
    """Its name in the Python file `file`."""

    command: tuple[str, ...] = ()
    reads: str = "answers"
    timeout_hours: float = 24.0
    higher_is_better: bool = True
    data_digest: str = ""
    """What tells its files apart from others of the same names; empty where a plan has looked at them."""

    @property
    def is_local(self) -> bool:
        """Whether its data need no network."""
        return bool(self.files) or self.name == CONTINUATION or self.adapter != "lm_eval"
