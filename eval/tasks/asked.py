"""The model as a task's own Python function asks it, and such tasks."""

import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from configs.base import UserError
from configs.text import one_line
from eval.likelihood import Likelihood, Scorer, Targets
from eval.tasks.answers import Answers, read_answers
from eval.tasks.task import Task

GENERATED_ROWS = 8
"""Texts that are written at once."""


class AskedModel:
    """A model that tells how likely texts are, and writes."""

    def __init__(self, scorer: Scorer, tokenizer: PreTrainedTokenizerBase) -> None:
        self._scorer, self.tokenizer = scorer, tokenizer

    @property
    def context(self) -> int:
        """The largest number of tokens that the model reads at once."""
        return self._scorer.context

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Return how likely each (context, continuation) continues: its `nats`, and `is_greedy`.

        Blanks at a context's end count as the continuation's, as in lm-eval; of what is longer than the model's context
        the beginning is cut off.
        """
        sequences = []
        for context, continuation in pairs:
            blanks = len(context) - len(context.rstrip())
            if blanks:
                context, continuation = context[:-blanks], context[-blanks:] + continuation
            before = self._encode(context) if context else [self._begin]
            whole = self._encode(context + continuation)
            after = whole[len(before) :] if context else whole
            if not after:
                raise UserError("a continuation has no token; give text after the context")
            check_fits(len(after), self.context)
            ids = (before + after)[-(self.context + 1) :]
            sequences.append(Targets(ids, max(1, len(ids) - len(after))))
        return self._scorer.score(sequences)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], *, max_tokens: int = 64, until: Sequence[str] = ()) -> list[str]:
        """Return what the model finds the likeliest to follow each prompt, up to the first of the texts `until`."""
        room = self.context - max_tokens
        if room < 1:
            raise UserError(f"{max_tokens} tokens are to be written, and the model's context has {self.context}")
        ids = [(self._encode(prompt) or [self._begin])[-room:] for prompt in prompts]
        texts = [""] * len(ids)
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        for start in range(0, len(order), GENERATED_ROWS):
            numbers = order[start : start + GENERATED_ROWS]
            for number, text in zip(numbers, self._write([ids[one] for one in numbers], max_tokens), strict=True):
                cuts = [place for stop in until if (place := text.find(stop)) >= 0]
                texts[number] = text[: min(cuts)] if cuts else text
        return texts

    def _write(self, batch: Sequence[Sequence[int]], max_tokens: int) -> list[str]:
        longest, end = max(map(len, batch)), self.tokenizer.eos_token_id
        pad = end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        pad = 0 if pad is None else pad
        device = self._scorer.model.device
        inputs = torch.full((len(batch), longest), pad)
        mask = torch.zeros_like(inputs)
        for row, ids in enumerate(batch):  # on the left, so that all prompts end where what is written begins
            inputs[row, longest - len(ids) :] = torch.tensor(ids)
            mask[row, longest - len(ids) :] = 1
        written = self._scorer.model.generate(
            inputs.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=end,
        )
        return [self.tokenizer.decode(row[longest:], skip_special_tokens=True) for row in written]

    @property
    def _begin(self) -> int:
        known = self.tokenizer.eos_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
        return 0 if known is None else int(known)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def check_fits(num_tokens: int, context: int) -> None:
    """Raise UserError if so many tokens, whose likelihood is asked for, are more than a model reads at once."""
    if num_tokens > context:
        raise UserError(f"an answer of {num_tokens:,} tokens is longer than the model's context of {context:,}")


def answer_python_task(task: Task, model: AskedModel, *, limit: int | None) -> Answers:
    """Return what the task's function gives for a model. Raises UserError if it gives no answers.

    What it prints goes to standard error: a command's own output is read by scripts.
    """
    assert task.file is not None
    with _printing_errors():
        rows: Any = _load_function(task.file, task.function)(model)
        if not isinstance(rows, Iterable) or isinstance(rows, Mapping | str):
            what = f"one {type(rows).__name__}" if isinstance(rows, Mapping | str) else type(rows).__name__
            raise UserError(f"{task.file}:{task.function} returned {what}; yield a dict for each question")
        return read_answers(task, rows, where=f"{task.file.name}:{task.function}", limit=limit)


@contextmanager
def _printing_errors() -> Iterator[None]:
    """Send what is printed to standard error, also by programs that are started meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _load_function(path: Path, name: str) -> Any:
    """Return a function of a file, which may import others beside it."""
    spec = importlib.util.spec_from_file_location(f"concord_task_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {one_line(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    if not callable(function := getattr(module, name, None)):
        raise UserError(f"{path} has no function {name!r}; name one that takes the model")
    return function
