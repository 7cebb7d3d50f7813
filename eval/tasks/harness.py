"""Tasks are scored by lm-eval, with likelihoods by the scorer of eval/likelihood.py. No other file imports lm_eval.

What lm-eval asks of a model is what its own Hugging Face model is asked; only how likelihoods are computed differs, so
that logits are never made for a whole batch. Its lines and bars do not reach the terminal.
"""

import contextlib
import hashlib
import io
import logging
import os
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any

os.environ["TQDM_DISABLE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
import datasets
import lm_eval
import lm_eval.utils
from lm_eval.api import metrics
from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import PreTrainedTokenizerBase

from configs.base import UserError
from eval.likelihood import Scorer, Targets
from eval.tasks.aggregates import BITS_PER_BYTE, MEAN, WHOLE, Aggregation, Bounds, bounds_of, is_mean
from eval.tasks.answers import Answer, Answers, cluster_of
from eval.tasks.asked import GENERATED_ROWS, check_fits
from eval.tasks.data_files import read_rows
from eval.tasks.questions import check_clusters, check_data, check_gold, check_metric, explain_load
from eval.tasks.task import Task

for _library in ("lm_eval", "huggingface_hub", "transformers"):
    logging.getLogger(_library).setLevel(logging.ERROR)
# lm-eval compiles a task's templates for each question, which was a third of the time of small models
lm_eval.utils.env.from_string = lru_cache(maxsize=1024)(lm_eval.utils.env.from_string)


class _Model(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model, with likelihoods by the scorer."""

    def __init__(self, scorer: Scorer, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(
            pretrained=scorer.model, tokenizer=tokenizer, batch_size=GENERATED_ROWS, device=str(scorer.model.device)
        )
        self._scorer = scorer
        self.num_truncated = 0
        self.cuts_answers = False
        """Whether of an answer that is longer than the context the beginning is cut off, too."""

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        sequences = []
        for _, context, continuation in requests:
            if not self.cuts_answers:
                check_fits(len(continuation), self.max_length)
            ids = (context + continuation)[-(self.max_length + 1) :]
            self.num_truncated += len(context) + len(continuation) > self.max_length + 1
            sequences.append(Targets(ids, max(1, len(ids) - len(continuation))))
        found = [(-one.nats, one.is_greedy) for one in self._scorer.score(sequences)]
        for (text, *_), answer in zip(requests, found, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        for context, settings in (request.args for request in requests):
            room = self.max_length - int(settings.get("max_gen_toks", self.max_gen_toks))
            self.num_truncated += len(self.tok_encode(context)) > room
        written: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return written


@lru_cache(maxsize=1)
def _model(scorer: Scorer, tokenizer: PreTrainedTokenizerBase) -> _Model:
    with _silent():
        return _Model(scorer, tokenizer)


def forget_model() -> None:
    """Let go of the model that was asked last."""
    _model.cache_clear()


def answer_task(
    task: Task,
    rows: Sequence[Mapping[str, Any]] | None,
    scorer: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None,
) -> Answers:
    """Have a model answer a task, or its first `limit` questions; `rows` are the questions of one that is made here.

    Raises UserError if the task cannot be read, or has another digest than it should have, and what lm-eval raises.
    """
    loaded = _load(task, rows)
    name = loaded.config.task
    model = _model(scorer, tokenizer)
    model.num_truncated, model.cuts_answers = 0, rows is not None
    with _silent(), _seeded():
        results = evaluate(
            lm=model,
            task_dict={"tasks": {name: loaded}, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    assert results is not None  # only ranks other than the first get None, and there is one rank
    metric = _choose_metric(task, results["results"][name])
    value = _finite(results["results"][name].get(metric), metric)
    samples = _of_filter(results["samples"][name], metric)
    digest = hashlib.sha256("".join(str(sample["doc_hash"]) for sample in samples).encode()).hexdigest()
    if task.digest is not None and limit is None and digest != task.digest:
        raise UserError(f"its questions have the digest {digest}, and {task.digest} was wanted: the data have changed")
    check_clusters(task.cluster, [sample["doc"] for sample in samples])
    answers = _answers(task, loaded, samples, metric)
    items = [sample[metric.partition(",")[0]] for sample in samples]
    aggregation, bounds = _aggregated(loaded, metric, items, answers, value)
    return Answers(
        answers=answers,
        metric=metric.removesuffix(",none"),
        value=value,
        aggregation=aggregation,
        low=bounds.low,
        high=bounds.high,
        version=str(results["versions"].get(name, "")),
        kind=_KINDS.get(loaded.config.output_type, "generation"),
        digest=digest,
        num_truncated=model.num_truncated,
        higher_is_better=results.get("higher_is_better", {}).get(name, {}).get(metric.partition(",")[0]) is not False,
        lm_eval_version=str(lm_eval.__version__),
    )


def _answers(task: Task, loaded: Any, samples: Sequence[Mapping[str, Any]], metric: str) -> tuple[Answer, ...]:
    """Return the answers of lm-eval's samples. Raises UserError if right answers are none of the choices."""
    if _is_unitxt(loaded):
        samples = _with_unitxt_scores(samples, metric.partition(",")[0])
    else:
        with _silent(), _seeded():
            check_gold(loaded, samples)
    return tuple(_answer(task, sample, metric) for sample in samples)


def _aggregated(
    loaded: Any, metric: str, items: Sequence[Any], answers: Sequence[Answer], value: float
) -> tuple[str, Bounds]:
    """Return the name of what lm-eval makes the score of, and the score's interval if it is not the mean's."""
    function = loaded.aggregation().get(metric.partition(",")[0], metrics.mean)
    names = {own: str(name) for name, own in AGGREGATION_REGISTRY.items()}
    found = Aggregation(
        names.get(function, WHOLE), function, lambda own: metrics._sacreformat(*map(list, zip(*own, strict=True)))
    )
    if found.name == BITS_PER_BYTE:
        return BITS_PER_BYTE, Bounds()
    probes = not _is_unitxt(loaded)  # whose function takes a second, whatever it is given
    with _silent():
        if is_mean(found, [one.value for one in answers], value, probes=probes):
            return MEAN, Bounds()
        clusters = [one.cluster for one in answers]
        return found.name, bounds_of(found, items, clusters, value) if probes else Bounds()


def _finite(value: Any, metric: str) -> float:
    """Return lm-eval's score. Raises UserError if it is none."""
    if metric.partition(",")[0] == "bypass":
        raise UserError("its metric bypass scores nothing; name another one")
    if not hasattr(value, "__float__") or not isfinite(float(value)):
        raise UserError(f"lm-eval gives {value!r} as its {metric.removesuffix(',none')}, which is no finite number")
    return float(value)


_KINDS = {"multiple_choice": "multiple_choice", "loglikelihood": "likelihood", "loglikelihood_rolling": "likelihood"}


def _load(task: Task, rows: Sequence[Mapping[str, Any]] | None) -> Any:
    """Return lm-eval's task."""
    config: dict[str, Any] = {"metadata": {"version": task.version}}
    if task.file is not None:
        config = load_yaml(task.file, resolve_func=True)
    config |= {"task": task.lm_eval_name} | dict(task.overrides)
    config.pop("tag", None)
    if "group" in config and not config.get("output_type"):
        raise UserError(f"{task.name} is a group of tasks; name its tasks")
    if rows is not None:
        config |= {"custom_dataset": lambda **_: _dataset({"test": [dict(row) for row in rows]}), "test_split": "test"}
    elif task.files:
        files = dict(task.files)
        config["custom_dataset"] = lambda **_: _dataset(
            {split: read_rows(path, task.columns) for split, path in files.items()}
        )
        config["dataset_path"] = "local"
        for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
            if config.get(key) is not None and config[key] not in files:
                config.pop(key)
    elif task.revision is not None:
        config["dataset_kwargs"] = {**(config.get("dataset_kwargs") or {}), "revision": task.revision}
    if task.num_fewshot is not None:
        config["num_fewshot"] = task.num_fewshot
    if _is_unitxt(config.get("class")):
        config["class"] = _without_cache(config["class"])
    check_data(config)
    wanted = (task.metric or "").partition(",")[0]
    check_metric(config, wanted, list(METRIC_REGISTRY))
    names = [one["metric"] for one in config.get("metric_list") or []]
    if wanted and wanted not in names and not callable(config.get("process_results")):
        config["metric_list"] = [*(config.get("metric_list") or []), {"metric": wanted}]
    try:
        with _silent():
            loaded = TaskManager(include_defaults=False).load([config])["tasks"]
    except Exception as error:
        raise explain_load(config, error) or error from None
    (one,) = loaded.values()
    return one


def _is_unitxt(task: Any) -> bool:
    """Return whether a task, or the class of one, is lm-eval's adapter of unitxt."""
    return any(one.__name__ == "Unitxt" for one in (task if isinstance(task, type) else type(task)).__mro__)


def _without_cache(adapter: Any) -> Any:
    """Return lm-eval's adapter of unitxt, but for its cache, which gave the rows of a file as it was before."""

    class Unitxt(adapter):  # type: ignore[misc]
        def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
            from unitxt import load_dataset

            self.dataset = load_dataset(self.DATASET_NAME, use_cache=False, **(dataset_kwargs or {}))

    return Unitxt


def _with_unitxt_scores(samples: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Return samples with the score of each: lm-eval's adapter has only predictions there, and scores the whole."""
    from unitxt import evaluate as evaluate_unitxt

    asked = [{**sample["doc"], "metrics": [f"metrics.{metric}"]} for sample in samples]
    found = evaluate_unitxt([sample[metric][0] for sample in samples], asked)
    return [
        {**sample, metric: float(one["score"]["instance"]["score"])} for sample, one in zip(samples, found, strict=True)
    ]


def _dataset(splits: Mapping[str, list[dict[str, Any]]]) -> Any:
    return datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})


def _choose_metric(task: Task, results: Mapping[str, Any]) -> str:
    """Return the key of the score among lm-eval's results. Raises UserError if there is none."""
    known = [key for key in results if "," in key and "_stderr" not in key]
    wanted = task.metric or (known[0] if known else "")
    name, _, chosen = wanted.partition(",")
    fits = [key for key in known if key.partition(",")[0] == name and (not chosen or key.partition(",")[2] == chosen)]
    if not fits:
        raise UserError(f"it has no metric {wanted!r}; it has {', '.join(known) or 'none'}")
    return fits[0]


def _of_filter(samples: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Return the answers that a metric is of, in the order of the questions: each filter has all of them."""
    of = metric.partition(",")[2]
    own = (one for one in samples if one.get("filter", of) == of and metric.partition(",")[0] in one["metrics"])
    return sorted(own, key=lambda sample: int(sample["doc_id"]))


def _answer(task: Task, sample: Mapping[str, Any], metric: str) -> Answer:
    value, weight = sample[metric.partition(",")[0]], 1.0
    if metric.partition(",")[0] == BITS_PER_BYTE and isinstance(value, tuple):
        value, weight = -value[0], float(value[1])
    if not isinstance(value, int | float):
        value = float("nan")  # a metric of the whole, such as BLEU
    document = sample["doc"]
    names = [document[key] for key in ("document", "id") if document.get(key) is not None]
    return Answer(
        question=f"{sample['doc_hash']}-{sample['prompt_hash']}"[:129],
        value=float(value),
        weight=weight,
        num_choices=len(sample["resps"]) // (2 if "acc_mutual_info" in sample else 1),  # asked without context, too
        cluster=cluster_of(document.get(task.cluster) if task.cluster else None),
        document=str(names[0] if names else sample["doc_id"]),
    )


@contextlib.contextmanager
def _seeded() -> Any:
    """Draw the same numbers each time: GPQA's choices are shuffled when its questions are first asked for."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)


@contextlib.contextmanager
def _silent() -> Any:
    """Keep what lm-eval and datasets print away from the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
