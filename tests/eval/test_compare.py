"""Two models are compared on what both answered, and the language that is worse is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.base import UserError
from eval.compare import compare
from eval.rows import Answered, write_answers

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


def answers(directory: Path, rights: dict[str, list[float]], task: str = "quiz", **more: Any) -> Path:
    rows = [
        {"question": f"{language}-{i}", "value": value, "weight": 1.0, "language": language} | more
        for language, values in rights.items()
        for i, value in enumerate(values)
    ]
    return write(directory, task, rows)


def test_the_language_that_is_worse_is_named_and_of_others_none_can_tell(tmp_path: Path) -> None:
    first, second = bits(tmp_path / "a", seed=1), bits(tmp_path / "b", seed=2, worse="sw", factor=1.02)
    rows, (total,), _ = compare(first, second)
    assert {row.language: row.verdict for row in rows} == {"en": "cannot tell", "sw": "worse", "th": "cannot tell"}
    assert total.worst == "sw" and total.num_languages == 3
    assert all(row.num_paired == 40 and row.num_unpaired == 0 for row in rows)
    back, *_ = compare(second, first)
    assert {row.language: row.verdict for row in back}["sw"] == "better"
    assert [row.difference.value for row in back] == pytest.approx([-row.difference.value for row in rows])


def test_what_could_have_been_seen_is_told_where_nothing_is(tmp_path: Path) -> None:
    rows, *_ = compare(bits(tmp_path / "a", seed=1), bits(tmp_path / "b", seed=2))
    assert {row.verdict for row in rows} == {"cannot tell"}
    few, *_ = compare(bits(tmp_path / "c", seed=1, number=5), bits(tmp_path / "d", seed=2, number=5))
    assert min(row.detectable for row in few) > 0
    assert sum(row.detectable for row in few) > sum(row.detectable for row in rows)


def test_many_languages_do_not_make_a_difference_by_chance(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(5))
    first, second = (
        {f"x{i}": (generator.random(60) < 0.5).astype(float).tolist() for i in range(40)} for _ in range(2)
    )
    rows, *_ = compare(answers(tmp_path / "a", first), answers(tmp_path / "b", second))
    assert min(row.p_value for row in rows) < 0.05 and {row.verdict for row in rows} == {"cannot tell"}


def test_tasks_are_compared_by_question_and_more_right_is_better(tmp_path: Path) -> None:
    first = answers(tmp_path / "a", {"en": [0.0] * 20 + [1.0] * 20, "sw": [1.0] * 3})
    second = answers(tmp_path / "b", {"en": [1.0] * 36 + [0.0] * 4, "sw": [1.0] * 5})
    answers(tmp_path / "a", {"en": [1.0]}, task="only_here")
    (english, swahili), (total,), uncompared = compare(first, second)
    assert (english.verdict, english.difference.value) == ("better", pytest.approx(0.4))
    assert (swahili.num_paired, swahili.num_unpaired, swahili.verdict) == (3, 2, "cannot tell")
    assert total.measure == "quiz" and uncompared == [("only_here", "en", "only the first was asked")]


def test_scores_without_anything_in_common_are_refused(tmp_path: Path) -> None:
    first = answers(tmp_path / "a", {"en": [1.0]})
    with pytest.raises(UserError, match="have no document and no question in common"):
        compare(first, answers(tmp_path / "b", {"en": [1.0]}, task="other"))
    with pytest.raises(UserError, match=r"has no answers \(samples"):
        compare(first, tmp_path / "empty")
    (tmp_path / "a/samples/quiz.jsonl").write_text('{"value": 1}\n')
    with pytest.raises(UserError, match=r"quiz\.jsonl:1: question is None where a text is wanted"):
        compare(first, answers(tmp_path / "c", {"en": [1.0]}))


GOOD = {"question": "q", "value": 1.0, "weight": 1.0, "language": "en"}
DOCUMENT = {"digest": "d", "nats": 3.0, "num_bytes": 9, "language": "en"}


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("quiz", "[1, 2]", "is no answer but '[1, 2]'"),
        ("quiz", "5", "is no answer but '5'"),
        ("quiz", "{", "cannot be read as JSON"),
        ("quiz", json.dumps({key: GOOD[key] for key in ("question", "value", "weight")}), ": language is None"),
        ("quiz", json.dumps(GOOD | {"value": None}), ": value is None where a number is wanted"),
        ("quiz", json.dumps(GOOD | {"value": "1"}), ": value is '1' where a number is wanted"),
        ("quiz", json.dumps(GOOD | {"weight": 0}), ": weight is 0 and has to be above 0"),
        ("bits_per_byte", json.dumps(DOCUMENT | {"num_bytes": 0}), ": num_bytes is 0 and has to be above 0"),
        ("bits_per_byte", json.dumps(DOCUMENT | {"nats": None}), ": nats is None where a number is wanted"),
        ("bits_per_byte", json.dumps(DOCUMENT | {"digest": 3}), ": digest is 3 where a text is wanted"),
    ],
)
def test_a_line_that_is_no_answer_is_one_sentence_with_file_and_line(
    tmp_path: Path, name: str, line: str, told: str
) -> None:
    good = json.dumps(DOCUMENT if name == "bits_per_byte" else GOOD)
    for directory, lines in (("a", [good, good]), ("b", [good, line])):
        write(tmp_path / directory, name, []).joinpath(f"samples/{name}.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError) as raised:
        compare(tmp_path / "a", tmp_path / "b")
    assert f"b/samples/{name}.jsonl:2" in str(raised.value) and told in str(raised.value)
    assert str(raised.value).endswith("; evaluate again") and "\n" not in str(raised.value)


def test_questions_that_are_asked_twice_are_paired_by_their_place_among_them(tmp_path: Path) -> None:
    def twice(directory: Path, values: list[float]) -> Path:
        rows = [{"question": f"q{i % 20}", "value": value} | GOOD_REST for i, value in enumerate(values)]
        return write(directory, "quiz", rows)

    (row,), *_ = compare(twice(tmp_path / "a", [0.0] * 40), twice(tmp_path / "b", [0.0] * 20 + [1.0] * 20))
    assert (row.num_paired, row.num_unpaired, row.difference.value) == (40, 0, 0.5)
    (row,), *_ = compare(tmp_path / "a", twice(tmp_path / "c", [0.0] * 30))
    assert (row.num_paired, row.num_unpaired) == (30, 10)


GOOD_REST = {"weight": 1.0, "language": "en"}


def test_a_score_that_is_no_mean_is_not_compared_by_question(tmp_path: Path) -> None:
    """Of perplexities the better model has the lower one, and the higher mean of log-likelihoods."""
    for name, value in (("a", -12.0), ("b", -10.0)):
        given = {"aggregation": "perplexity", "metric": "perplexity", "higher_is_better": False}
        answers(tmp_path / name, {"en": [value] * 30}, task="lambada", **given)
        answers(tmp_path / name, {"en": [1.0] * 9})
    rows, _, uncompared = compare(tmp_path / "a", tmp_path / "b")
    assert [row.measure for row in rows] == ["quiz"]
    told = "only the whole has a score: the perplexity of all questions, and no mean over them"
    assert uncompared == [("lambada", "en", told)]


def test_languages_of_one_passage_are_left_out_of_the_mean_and_of_the_correction(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    for name in ("a", "b"):
        right = {language: (generator.random(60) < 0.5).astype(float).tolist() for language in ("en", "sw")}
        answers(tmp_path / name, right, task="quiz_x", family="quiz")
        answers(tmp_path / name, {"th": [float(name == "b")] * 5}, task="quiz_y", family="quiz", cluster="p")
    rows, (total,), uncompared = compare(tmp_path / "a", tmp_path / "b")
    assert [row.language for row in rows] == ["en", "sw"] and total.num_languages == 2
    assert np.isfinite([total.difference.low, total.difference.high]).all()
    assert max(row.corrected for row in rows) <= 2 * max(row.p_value for row in rows)
    assert uncompared == [
        ("quiz", "th", "one document, question or passage alone is in both, which says nothing of others")
    ]


def test_the_mean_over_languages_with_the_same_questions_is_not_surer_than_they_are(tmp_path: Path) -> None:
    """Two models that are equally good: the interval left 0 out in half of such comparisons."""
    generator = np.random.Generator(np.random.PCG64(3))
    tries, missed = 12, 0
    for number in range(tries):
        for name in ("a", "b"):
            right = generator.random(100) < 0.5
            for language in range(10):
                own = np.where(generator.random(100) < 0.1, generator.random(100) < 0.5, right).astype(float)
                rows = [
                    {"question": f"{language} {i}", "document": str(i), "value": value, "weight": 1.0}
                    | {"language": f"x{language}", "family": "quiz"}
                    for i, value in enumerate(own.tolist())
                ]
                write(tmp_path / f"{number}-{name}", f"quiz_{language}", rows)
        _, (total,), _ = compare(tmp_path / f"{number}-a", tmp_path / f"{number}-b")
        missed += not total.difference.low <= 0 <= total.difference.high
    assert missed <= 2


def test_where_less_is_better_more_is_worse(tmp_path: Path) -> None:
    def nats(directory: Path, factor: float, **more: Any) -> Path:
        rows = [
            {"question": f"q{i}", "value": (100 + i) * factor, "weight": 300.0, "language": "en"} | more
            for i in range(40)
        ]
        return write(directory, "story", rows)

    (row,), (total,), _ = compare(nats(tmp_path / "a", 1.0), nats(tmp_path / "b", 1.2))
    assert (row.verdict, row.higher_is_better, total.worst) == ("worse", False, "en")
    plain = {"weight": 1.0, "higher_is_better": False}
    (row,), *_ = compare(nats(tmp_path / "c", 1.0, **plain), nats(tmp_path / "d", 1.2, **plain))
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

    (row,), *_ = compare(quiz(tmp_path / "a", 0), quiz(tmp_path / "b", 1))
    assert row.verdict == "cannot tell" and row.p_value > 0.5


def test_with_few_pairs_no_difference_shows_however_large(tmp_path: Path) -> None:
    first, second = answers(tmp_path / "a", {"en": [0.0] * 5}), answers(tmp_path / "b", {"en": [1.0] * 5})
    (row,), *_ = compare(first, second)
    assert (row.verdict, row.detectable) == ("cannot tell", float("inf"))


def test_a_score_of_the_whole_is_not_compared_and_that_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        answers(tmp_path / name, {"en": [float("nan")] * 9}, task="chrf_en", family="chrf")
        answers(tmp_path / name, {"en": [1.0] * 9})
    rows, _, uncompared = compare(tmp_path / "a", tmp_path / "b")
    assert [row.measure for row in rows] == ["quiz"]
    assert uncompared == [("chrf", "en", "only the whole has a score")]


def test_what_only_one_model_has_or_another_metric_is_told(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    rights = {"en": [1.0] * 9}
    for directory, metric in ((first, "acc"), (second, "acc_norm")):
        answers(directory, rights)
        answers(directory, rights, task="norms", metric=metric)
        answers(directory, rights, task="failed_en" if metric == "acc" else "absent_en", family=metric)
        answers(directory, {}, task="broken")
        answers(directory, {"en": [0.0, 1.0], "sw" if metric == "acc" else "th": [0.0]}, task="made")
        write(directory, "others", [{"question": metric, "value": 1.0, "weight": 1.0, "language": "en"}])
    answers(second, {}, task="failed_en")
    rows, _, uncompared = compare(first, second)
    assert [row.measure for row in rows] == ["made", "quiz"]
    assert uncompared == [
        ("acc_norm", "en", "only the second was asked"),
        ("broken", "und", "it failed in both"),
        ("acc", "en", "it failed in the second"),
        ("made", "sw", "only the first was asked"),
        ("made", "th", "only the second was asked"),
        ("norms", "en", "the metric is acc in the first and acc_norm in the second"),
        ("others", "en", "no document and no question is in both"),
    ]
    only = [answers(tmp_path / name, rights, metric=name) for name in ("acc", "f1")]
    with pytest.raises(UserError, match=r"in common; quiz en: the metric is acc in the first and f1 in the second;"):
        compare(*only)


def test_files_of_one_family_are_one_measure_in_many_languages(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(5))
    languages = [f"x{i}" for i in range(40)]
    for name in ("a", "b"):
        for language in languages:
            rights = (generator.random(60) < 0.5).astype(float).tolist()
            answers(tmp_path / name, {language: rights}, task=f"xcopa_{language}", family="xcopa")
        answers(tmp_path / name, {"und": [1.0] * 9}, task="piqa", family="piqa")
    rows, totals, _ = compare(tmp_path / "a", tmp_path / "b")
    assert [(total.measure, total.num_languages) for total in totals] == [("piqa", 1), ("xcopa", 40)]
    own = [row for row in rows if row.measure == "xcopa"]
    assert min(row.p_value for row in own) < 0.05 and {row.verdict for row in own} == {"cannot tell"}
    least = min(own, key=lambda row: row.p_value)
    assert least.corrected == pytest.approx(min(1.0, 40 * least.p_value))
    one = own[0]
    alone, *_ = compare(
        *(write(tmp_path / f"{name}-alone", "xcopa_x0", read(tmp_path / name, "xcopa_x0")) for name in ("a", "b"))
    )
    assert alone[0].detectable is not None and one.detectable is not None
    # the strictest of 40 tests, by Student's quantiles of 60 pairs: (3.42 + 0.85) of (2.00 + 0.85) errors
    assert one.detectable / alone[0].detectable == pytest.approx(1.488, abs=0.01)


def read(directory: Path, measure: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / f"samples/{measure}.jsonl").read_text().splitlines()]


def test_a_clustered_difference_is_that_of_the_scores(tmp_path: Path) -> None:
    """Nine passages of one question that gets right, and one of 91 that gets wrong: the score falls."""

    def quiz(directory: Path, *, is_second: bool) -> Path:
        clusters = [*range(9), *[9] * 91]
        rows = [
            {"question": f"q{i}", "value": float((cluster < 9) == is_second), "cluster": f"p{cluster}"}
            | {"weight": 1.0, "language": "en"}
            for i, cluster in enumerate(clusters)
        ]
        return write(directory, "quiz", rows)

    (row,), *_ = compare(quiz(tmp_path / "a", is_second=False), quiz(tmp_path / "b", is_second=True))
    assert row.difference.value == pytest.approx((9 - 91) / 100)
    assert row.difference.low < row.difference.value < 0.99 <= row.difference.high
    assert row.verdict == "cannot tell" and row.p_value == 1


def test_questions_without_a_passage_are_each_their_own(tmp_path: Path) -> None:
    first = answers(tmp_path / "a", {"en": [0.0] * 40}, cluster="")
    second = answers(tmp_path / "b", {"en": [1.0] * 30 + [0.0] * 10}, cluster="")
    for directory in (first, second):
        pair = [{"question": f"p{i}", "value": 0.0, "weight": 1.0, "language": "en", "cluster": "p"} for i in (1, 2)]
        write(directory, "quiz", read(directory, "quiz") + pair)
    (row,), *_ = compare(first, second)
    assert (row.verdict, row.difference.value) == ("better", pytest.approx(30 / 42))


def test_where_nothing_differs_nothing_is_made_up(tmp_path: Path) -> None:
    same = {"en": [1.0, 0.0] * 20, "sw": [0.0] * 40}
    rows, (total,), _ = compare(answers(tmp_path / "a", same), answers(tmp_path / "b", same))
    assert all(row.verdict == "cannot tell" and row.detectable is None and row.is_same for row in rows)
    assert total.worst is None
    other = {**same, "sw": [1.0] * 40}
    rows, (total,), _ = compare(tmp_path / "a", answers(tmp_path / "c", other))
    assert [row.verdict for row in rows] == ["cannot tell", "better"] and total.worst == "en"


def test_few_pairs_are_too_few_by_as_many_tests_as_there_are_languages(tmp_path: Path) -> None:
    """Seven answers of seven have a p-value of 1 in 64, which is none where ten languages are tested."""
    before, after = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    (row,), *_ = compare(answers(tmp_path / "a", {"en": before}), answers(tmp_path / "b", {"en": after}))
    assert row.detectable is not None and row.detectable < 1
    languages = [f"x{i}" for i in range(10)]
    first = answers(tmp_path / "c", dict.fromkeys(languages, before))
    rows, *_ = compare(first, answers(tmp_path / "d", dict.fromkeys(languages, after)))
    assert {row.detectable for row in rows} == {float("inf")}


def test_parallel_sentences_are_paired_by_what_they_say(tmp_path: Path) -> None:
    """A line that is put in front moves all others, which are the same sentences still."""
    texts = [f"sentence {i}" for i in range(20)]
    nats = [float(10 + i) for i in range(20)]
    for name, own, values in (("a", texts, nats), ("b", ["new", *texts], [1.0, *nats])):
        answered = Answered([], {"sw": values}, [], [], "float32")
        write_answers(tmp_path / name / "samples", [], {"sw": own}, answered)
    (row,), *_ = compare(tmp_path / "a", tmp_path / "b")
    assert (row.measure, row.num_paired, row.num_unpaired) == ("bits_per_sentence", 20, 1)
    assert row.is_same and not row.higher_is_better
