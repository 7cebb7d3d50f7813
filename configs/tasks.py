"""What a suite of evaluation tasks says, and the suites that ship with Concord."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from configs.base import Config
from configs.data.sources import Language

Kind = Literal["multiple_choice", "likelihood", "generation"]
"""How a model is asked: which choice it finds likeliest, how likely it finds a text, or what it writes."""


class TaskConfig(Config):
    """A task of a suite, or one for each language that lm-eval has it in.

    `{iso}` in `task` stands for a language and its script as `swh_Latn`, `{alpha3}` for `swh`, `{alpha2}` for `sw`,
    `{name}` for `swahili`: there is a task for each language whose name is among lm-eval's in `folder`. In other keys
    the same is put in its place, and `{Name}` is `Swahili`.
    """

    task: str = Field(min_length=1)
    """The name that lm-eval has for it; with another adapter any name."""

    adapter: Literal["lm_eval", "python", "command"] = "lm_eval"
    """What asks the model: lm-eval, a Python function, or a program, which may have an environment of its own."""

    folder: str | None = Field(default=None, min_length=1)
    """Folder of lm_eval/tasks that has it, or `.` for tasks that the keys of `set` make."""

    function: str | None = Field(default=None, pattern=r"^.+\.py:[A-Za-z_]\w*$")
    """With `adapter: python` the function, as `FILE.py:NAME` (docs/evaluation.md)."""

    command: tuple[str, ...] = ()
    """With `adapter: command` the program and its arguments. `{model}` becomes a Hugging Face directory of the model,
    `{out}` a directory for what the program writes."""

    reads: Literal["answers", "garak", "inspect"] = "answers"
    """What the program writes below `{out}`: `answers.jsonl` (docs/evaluation.md), garak's report, or inspect's log."""

    higher_is_better: bool = True
    """Whether a higher score is a better one; lm-eval knows it of its own tasks."""

    timeout_hours: float = Field(default=24.0, gt=0)
    """After so long the program is ended, and the task has failed."""

    languages: tuple[str, ...] = ()
    """What the placeholder stands for, where folder is `.`."""

    name: str | None = Field(default=None, min_length=1)
    """The name that the scores have for it, with the same placeholder. Left out: lm-eval's."""

    language: Language | None = None
    """Language of a task without a placeholder. null: it is of none, or of several."""

    kind: Kind
    """How a model is asked."""

    formulation: Literal["cloze", "choice", "none"] = "none"
    """Whether a choice is made between the texts of answers (`cloze`), which small models can do, or the letters of
    answers that the model is shown (`choice`)."""

    metric: str = Field(default="acc", min_length=1)
    """The metric of lm-eval that is the score. Of a program that garak or inspect is, the detector or scorer that
    counts; all do if nothing is said."""

    chance: float | None = Field(default=None, ge=0, le=1)
    """Score of a guess. null: it is reckoned from the number of choices; of what is no choice there is none."""

    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples before each question. null: as lm-eval has it."""

    cluster: str | None = Field(default=None, min_length=1)
    """Field of a question that several share, such as their passage: they are no independent observations."""

    licence: str = Field(min_length=1)
    """Licence of the data, as far as it is known."""

    source: str = Field(min_length=1)
    """Where the data come from: a dataset of the Hugging Face Hub."""

    revision: str | None = Field(default=None, min_length=1)
    """Commit of the dataset. null: the newest."""

    digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 over the questions (docs/evaluation.md). null: it is recorded at the first load, and compared after."""

    version: str = "1"
    """Version of what is said here; with lm-eval's it tells scores apart."""

    files: Mapping[str, str] = {}
    """For each split the file below the recipe's `data` that has its rows, without its suffix: `.jsonl`, `.jsonl.gz`,
    `.parquet`, `.csv` or `.tsv`."""

    columns: tuple[str, ...] = ()
    """Names of the columns of a table without a line of names."""

    set: Mapping[str, Any] = {}
    """Keys of lm-eval's task that are set otherwise, such as `doc_to_text`."""

    @model_validator(mode="after")
    def _fits_its_adapter(self) -> Self:
        wanted = {"lm_eval": "folder", "python": "function", "command": "command"}
        if not getattr(self, own := wanted[self.adapter]):
            raise ValueError(f"a task of adapter {self.adapter} needs the key {own}; give it")
        for adapter, key in wanted.items():
            if adapter != self.adapter and getattr(self, key):
                raise ValueError(f"{key} is for adapter {adapter}, and this task's is {self.adapter}; leave one out")
        return self


class SuiteConfig(Config):
    """A suite: a list of tasks that belong together."""

    description: str = Field(min_length=1)
    """What the suite shows, in a sentence."""

    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    """Its tasks."""


SUITES = ("early", "multilingual", "science", "safety")
"""The suites that ship, in configs/suites/."""
