"""Two models are compared on what both answered, and the language that is worse is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import UserError
from eval.compare import compare

LANGUAGES = ("en", "sw", "th")


def write(directory: Path, measure: str, rows: list[dict[str, Any]]) -> Path:
    path = directory / f"samples/{measure}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def bits(directory: Path, *, worse: str = "", factor: float = 1.0, seed: int = 0, number: int = 40) -> Path:
    generator = np.random.Generator(np.random.PCG64(1))  # the same documents for both
    noise = np.random.Generator(np.random.PCG64(seed))
    rows = [
        {
            "document": f"{language}/{i}",
            "language": language,
            "digest": f"{language}-{i}",
            "num_bytes": size,
            "nats": size * generator.normal(1.0, 0.2) * noise.normal(1.0, 0.01) * (factor if language == worse else 1),
        }
        for language in LANGUAGES
        for i, size in enumerate(generator.integers(100, 900, number).tolist())
    ]
    return write(directory, "bits_per_byte", rows)


def answers(directory: Path, rights: dict[str, list[float]], task: str = "quiz") -> Path:
    rows = [
        {"question": f"{language}-{i}", "value": value, "weight": 1.0, "language": language}
        for language, values in rights.items()
        for i, value in enumerate(values)
    ]
    return write(directory, task, rows)


def test_the_language_that_is_worse_is_named_and_of_others_none_can_tell(tmp_path: Path) -> None:
    first, second = bits(tmp_path / "a", seed=1), bits(tmp_path / "b", seed=2, worse="sw", factor=1.02)
    rows, (total,) = compare(first, second)
    assert {row.language: row.verdict for row in rows} == {"en": "cannot tell", "sw": "worse", "th": "cannot tell"}
    assert total.worst == "sw" and total.num_languages == 3
    assert all(row.num_paired == 40 and row.num_unpaired == 0 for row in rows)
    back, _ = compare(second, first)
    assert {row.language: row.verdict for row in back}["sw"] == "better"
    assert [row.difference.value for row in back] == pytest.approx([-row.difference.value for row in rows])


def test_what_could_have_been_seen_is_told_where_nothing_is(tmp_path: Path) -> None:
    rows, _ = compare(bits(tmp_path / "a", seed=1), bits(tmp_path / "b", seed=2))
    assert {row.verdict for row in rows} == {"cannot tell"}
    few, _ = compare(bits(tmp_path / "c", seed=1, number=5), bits(tmp_path / "d", seed=2, number=5))
    assert min(row.detectable for row in few) > 0
    assert sum(row.detectable for row in few) > sum(row.detectable for row in rows)


def test_many_languages_do_not_make_a_difference_by_chance(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(5))
    first, second = (
        {f"x{i}": (generator.random(60) < 0.5).astype(float).tolist() for i in range(40)} for _ in range(2)
    )
    rows, _ = compare(answers(tmp_path / "a", first), answers(tmp_path / "b", second))
    assert min(row.p_value for row in rows) < 0.05 and {row.verdict for row in rows} == {"cannot tell"}


def test_tasks_are_compared_by_question_and_more_right_is_better(tmp_path: Path) -> None:
    first = answers(tmp_path / "a", {"en": [0.0] * 20 + [1.0] * 20, "sw": [1.0] * 3})
    second = answers(tmp_path / "b", {"en": [1.0] * 36 + [0.0] * 4, "sw": [1.0] * 5})
    answers(tmp_path / "a", {"en": [1.0]}, task="only_here")
    (english, swahili), (total,) = compare(first, second)
    assert (english.verdict, english.difference.value) == ("better", pytest.approx(0.4))
    assert (swahili.num_paired, swahili.num_unpaired, swahili.verdict) == (3, 2, "cannot tell")
    assert total.measure == "quiz"


def test_scores_without_anything_in_common_are_refused(tmp_path: Path) -> None:
    first = answers(tmp_path / "a", {"en": [1.0]})
    with pytest.raises(UserError, match="have no document and no question in common"):
        compare(first, answers(tmp_path / "b", {"en": [1.0]}, task="other"))
    with pytest.raises(UserError, match=r"has no answers \(samples"):
        compare(first, tmp_path / "empty")
    (tmp_path / "a/samples/quiz.jsonl").write_text('{"value": 1}\n')
    with pytest.raises(UserError, match=r"quiz\.jsonl cannot be read"):
        compare(first, answers(tmp_path / "c", {"en": [1.0]}))


def test_where_less_is_better_more_is_worse(tmp_path: Path) -> None:
    def nats(directory: Path, factor: float, **more: Any) -> Path:
        rows = [
            {"question": f"q{i}", "value": (100 + i) * factor, "weight": 300.0, "language": "en"} | more
            for i in range(40)
        ]
        return write(directory, "story", rows)

    (row,), (total,) = compare(nats(tmp_path / "a", 1.0), nats(tmp_path / "b", 1.2))
    assert (row.verdict, row.higher_is_better, total.worst) == ("worse", False, "en")
    plain = {"weight": 1.0, "higher_is_better": False}
    (row,), _ = compare(nats(tmp_path / "c", 1.0, **plain), nats(tmp_path / "d", 1.2, **plain))
    assert row.verdict == "worse"


def test_questions_on_one_passage_are_one_observation(tmp_path: Path) -> None:
    """Ten questions of one passage of ten are right all together: no evidence of a better model."""

    def quiz(directory: Path, rights: int) -> Path:
        rows = [
            {
                "question": f"q{i}",
                "value": float(i // 10 < 4 + rights),
                "weight": 1.0,
                "language": "en",
                "cluster": str(i // 10),
            }
            for i in range(100)
        ]
        return write(directory, "quiz", rows)

    (row,), _ = compare(quiz(tmp_path / "a", 0), quiz(tmp_path / "b", 1))
    assert row.verdict == "cannot tell" and row.p_value > 0.5


def test_with_few_pairs_no_difference_shows_however_large(tmp_path: Path) -> None:
    first, second = answers(tmp_path / "a", {"en": [0.0] * 5}), answers(tmp_path / "b", {"en": [1.0] * 5})
    (row,), _ = compare(first, second)
    assert (row.verdict, row.detectable) == ("cannot tell", float("inf"))


def test_a_score_of_the_whole_has_no_answers_to_compare(tmp_path: Path) -> None:
    for name in ("a", "b"):
        answers(tmp_path / name, {"en": [float("nan")] * 9}, task="translation")
        answers(tmp_path / name, {"en": [1.0] * 9})
    rows, _ = compare(tmp_path / "a", tmp_path / "b")
    assert [row.measure for row in rows] == ["quiz"]
