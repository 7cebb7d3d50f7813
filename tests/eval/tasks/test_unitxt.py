"""Tasks of unitxt, which lm-eval's adapter asks: a stand-in for the library shows what is taken of it, and how."""

import sys
from types import ModuleType
from typing import Any

import pytest

from eval.tasks import harness


class Adapter:
    """As lm-eval's."""

    DATASET_NAME = "card=cards.mine"


Adapter.__name__ = "Unitxt"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the stand-in is asked."""
    found: list[Any] = []
    stand_in = ModuleType("unitxt")

    def evaluate(predictions: list[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found.append(rows)
        return [{"score": {"instance": {"score": float(one == "yes")}}} for one in predictions]

    stand_in.evaluate = evaluate  # type: ignore[attr-defined]
    stand_in.load_dataset = lambda name, **given: found.append((name, given)) or "rows"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unitxt", stand_in)
    return found


def test_each_question_has_a_score_of_its_own(asked: list[Any]) -> None:
    samples = [{"doc": {"metrics": ["metrics.other"], "q": n}, "accuracy": (said, {})} for n, said in enumerate("yn")]
    samples[0]["accuracy"] = ("yes", {})
    found = harness._with_unitxt_scores(samples, "accuracy")
    assert [one["accuracy"] for one in found] == [1.0, 0.0]
    assert asked == [[{"metrics": ["metrics.accuracy"], "q": 0}, {"metrics": ["metrics.accuracy"], "q": 1}]]


def test_the_rows_are_those_that_are_there_now(asked: list[Any]) -> None:
    task = harness._without_cache(Adapter)()
    task.download({"loader_limit": 2})
    assert asked == [("card=cards.mine", {"use_cache": False, "loader_limit": 2})] and task.dataset == "rows"
    assert harness._is_unitxt(task) and harness._is_unitxt(Adapter) and not harness._is_unitxt(None)
