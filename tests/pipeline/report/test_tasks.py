"""What the page tells of tasks: coverage, chance, what is no headline, scripts, the worst languages, the heat map."""

import re
from pathlib import Path

import pytest

from eval.manifests import BitsPerByte, BitsPerSentence, Scores, TaskScore
from pipeline.report.page import TEMPLATES
from pipeline.report.results import sentences_table
from pipeline.report.tables import HIGHEST_LEVEL, NOTHING, Table
from pipeline.report.tasks import TasksPart, headlines, scripts_table, tasks_part
from tests.eval.test_manifests import scores, task


def in_languages(name: str, chance: float | None = 0.25, **values: float) -> list[TaskScore]:
    """Return a task's scores by language, each with an interval of 0.1 to both sides."""
    return [
        task(f"{name}_{language}", language, value=value, low=value - 0.1, high=value + 0.1, chance=chance)
        for language, value in values.items()
    ]


def covering(*tasks: TaskScore, languages: tuple[str, ...] = ("am", "ru", "sw", "zh"), **given: object) -> Scores:
    return scores(*tasks, am=2.0, ru=1.0, sw=1.5, zh=3.0).model_copy(update={"languages": languages} | given)


def part(found: Scores) -> TasksPart:
    shown = tasks_part(found)
    assert shown is not None
    return shown


def column(table: Table | None, head: str) -> list[str]:
    assert table is not None
    return [row[list(table.heads).index(head)] for row in table.rows]


def test_a_task_says_how_many_of_the_wanted_languages_it_covers_and_which_it_lacks():
    shown = part(covering(*in_languages("quiz", ru=0.5, sw=0.4, yo=0.4), task("piqa")))
    assert column(shown.overview, "Languages") == ["2 of 4, and 1 more", NOTHING]
    assert shown.missing == ["quiz has no score in 2 of 4 languages: am, zh."]


def test_scores_that_do_not_say_what_was_wanted_are_held_against_the_held_out_text():
    assert column(part(covering(*in_languages("quiz", ru=0.5), languages=())).overview, "Languages") == ["1 of 4"]


def test_the_overview_has_chance_adjusted_scores_and_none_where_nothing_is_chosen():
    tasks = [*in_languages("quiz", ru=0.55, sw=0.4), *in_languages("summary", chance=None, ru=0.3, sw=0.1)]
    overview = part(covering(*tasks)).overview
    assert column(overview, "Score") == ["47.5%", "0.200"]
    assert column(overview, "Chance-adjusted") == ["30.0%", NOTHING]
    assert column(overview, "Better than chance in") == ["2 of 2", NOTHING]
    assert column(overview, "Worst language") == ["sw 40.0%", "sw 0.100"]


def test_a_task_that_an_untrained_network_answers_is_marked_explained_and_no_headline():
    tasks = [*in_languages("gamed", sw=0.9, ru=0.9), *in_languages("quiz", sw=0.58, ru=0.58)]
    untrained = tuple(in_languages("gamed", sw=0.6, ru=0.6) + in_languages("quiz", sw=0.26, ru=0.24))
    found = covering(*tasks, untrained=untrained)
    shown = part(found)
    assert column(shown.overview, "Task") == ["gamed †", "quiz"]
    assert shown.unsound == [
        "† gamed: an untrained network scores 60.0% where a guess gives 25.0%, so this task can be answered without "
        "knowledge and is no headline."
    ]
    assert shown.by_language is not None and shown.by_language.heads == ("Language", "gamed †", "quiz")
    assert headlines(found) == [("quiz, 2 of 4 languages, chance 25%", "58% (48\u00a0to\u00a068%)")]
    assert column(shown.worst, "Tasks") == ["1", "1"]
    assert shown.worst is not None and shown.worst.caption.endswith("tasks without †")


def test_what_is_not_above_chance_is_no_headline():
    assert headlines(checked(covering(*in_languages("quiz", sw=0.3)))) == []


def checked(found: Scores) -> Scores:
    """Return the scores with an untrained network's, which are those of a guess."""
    return found.model_copy(update={"untrained": tuple(in_languages("quiz", sw=0.25))})


def test_a_task_that_no_untrained_network_was_asked_in_is_told_and_no_headline_but_for_continuation():
    tasks = [*in_languages("quiz", sw=0.6), *in_languages("program", sw=0.9), *in_languages("continuation", sw=0.5)]
    found = checked(covering(*tasks, *in_languages("summary", chance=None, sw=0.3), languages=("sw",)))
    assert [name for name, _ in headlines(found, most=9)] == ["quiz, chance 25%", "continuation, chance 25%"]
    assert part(found).unchecked == ["program"], "where there is no chance, there is no headline"
    assert column(part(found).overview, "Task") == ["quiz", "program", "continuation", "summary"]


def test_where_less_is_better_the_page_says_so_and_colours_by_it():
    tasks = [
        one.model_copy(update={"higher_is_better": False})
        for one in in_languages("pairs", chance=0.5, ru=0.7, sw=0.1, zh=0.42)
    ]
    control = tuple(in_languages("pairs", chance=0.5, sw=0.5))
    found = covering(*tasks, untrained=control, languages=("ru", "sw", "zh"))
    shown = part(found)
    assert shown.has_less_is_better and not part(covering(*in_languages("quiz", sw=0.5))).has_less_is_better
    assert column(shown.overview, "Task") == ["pairs (less is better)"]
    assert column(shown.overview, "Chance-adjusted") == ["18.7%"]
    assert column(shown.overview, "Better than chance in") == ["1 of 3"]
    assert column(shown.overview, "Worst language") == ["ru 70.0%"]
    assert column(shown.worst, "Language") == ["ru", "zh", "sw"]
    assert column(shown.by_language, "pairs (less is better)") == ["70.0% ± 10%*", "10.0% ± 10%", "42.0% ± 10%*"]
    assert shown.by_language is not None and list(shown.by_language.levels) == [[0], [6], [2]]
    low = [one.model_copy(update={"value": 0.2, "low": 0.1, "high": 0.3}) for one in tasks]
    assert headlines(covering(*low, untrained=control, languages=("ru", "sw", "zh"))) == [
        ("pairs (less is better), chance 50%", "20% (10\u00a0to\u00a030%)")
    ]
    high = [one.model_copy(update={"value": 0.8, "low": 0.7, "high": 0.9}) for one in tasks]
    assert headlines(covering(*high, untrained=control, languages=("ru", "sw", "zh"))) == []


def test_the_overview_counts_requests_that_were_cut_off():
    cut = [one.model_copy(update={"num_truncated": 600}) for one in in_languages("quiz", sw=0.5, ru=0.5)]
    shown = part(covering(*cut, *in_languages("other", sw=0.5)))
    assert column(shown.overview, "Cut off") == ["1,200", NOTHING] and shown.has_cut_off
    assert not part(covering(*in_languages("other", sw=0.5))).has_cut_off


def test_a_task_that_failed_in_all_its_parts_keeps_its_place_in_the_overview():
    failed = [task(f"lost_{la}", la, value=None, low=None, high=None, failure="no data") for la in ("sw", "ru")]
    table = part(covering(failed[0], *in_languages("quiz", sw=0.5), failed[1])).overview
    assert list(table.rows[0]) == ["lost", NOTHING, "failed", *[NOTHING] * 7]
    assert [len(row) for row in table.rows] == [len(table.heads)] * 2
    alone = part(covering(*failed))
    assert column(alone.overview, "Score") == ["failed"] and alone.worst is None and len(alone.failures) == 2


def test_failures_tell_paths_as_seen_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    failure = f"{tmp_path}/here/a.yaml: no line; '{tmp_path}/b.py' and https://x{tmp_path}/c, {tmp_path}/here2/d"
    shown = part(covering(task("quiz", value=None, failure=failure)))
    assert shown.failures == [("quiz", f"a.yaml: no line; '~/b.py' and https://x{tmp_path}/c, ~/here2/d")]


def test_scripts_have_the_means_of_their_languages():
    table = scripts_table(covering(*in_languages("quiz", ru=0.5, sw=0.4, yo=0.2), task("piqa"), languages=("sw", "yo")))
    assert table is not None and table.heads == ("Script", "Languages", "Bits per byte", "quiz")
    assert table.rows == [
        ["Latn", "2", "1.500", "30.0%"],
        ["Cyrl", "1", "1.000", "50.0%"],
        ["Ethi", "1", "2.000", NOTHING],
        ["Hans", "1", "3.000", NOTHING],
    ]
    assert scripts_table(scores(sw=1.0, yo=2.0)) is None, "they share one script"


def test_the_worst_languages_are_by_the_mean_of_chance_adjusted_scores():
    tasks = [*in_languages("quiz", ru=0.55, sw=0.4, am=0.25), *in_languages("other", chance=0.5, ru=0.6, am=0.6)]
    worst = part(covering(*tasks)).worst
    assert worst is not None
    assert list(worst.rows) == [
        ("am", "10.0%", "2", "quiz 0.0%"),
        ("sw", "20.0%", "1", "quiz 20.0%"),
        ("ru", "30.0%", "2", "other 20.0%"),
    ]
    many = {f"l{number:02}": 0.3 + number / 100 for number in range(30)}
    assert column(part(scores(*in_languages("quiz", **many))).worst, "Language") == [f"l{n:02}" for n in range(10)]


def test_the_heat_map_has_a_level_by_chance_adjusted_score_and_dashes_where_there_is_none():
    values = {"ru": 0.2, "sw": 0.25, "yo": 0.33, "zu": 0.45, "xh": 0.6, "ig": 0.8, "ha": 0.9}
    tasks = [*in_languages("quiz", **values), *in_languages("summary", chance=None, sw=0.3), task("piqa")]
    table = part(covering(*tasks, languages=("am", *values))).by_language
    assert table is not None and table.heads == ("Language", "quiz", "summary")
    levels = {row[0]: list(own) for row, own in zip(table.rows, table.levels, strict=True)}
    assert [levels[language][0] for language in values] == [0, 1, 2, 3, 4, 5, 6]
    assert levels["am"] == [None, None] and levels["sw"] == [1, None]
    assert list(table.rows[0]) == ["am", NOTHING, NOTHING]
    assert ["sw", "25.0% ± 10%*", "0.300"] in [list(row) for row in table.rows]


def test_parallel_sentences_are_sorted_with_their_ratio_to_the_best():
    bits = {
        name: BitsPerSentence(num_sentences=997, bits_per_sentence=value, low=low, high=low and value + 9)
        for name, value, low in (("sw", 150.0, 140.0), ("en", 100.0, None))
    }
    table = sentences_table(covering(bits_per_sentence=bits))
    assert table is not None and list(table.rows) == [
        ("en", "100.0", NOTHING, "1.00", "997"),
        ("sw", "150.0", "140.0 to 159.0", "1.50", "997"),
    ]
    assert sentences_table(covering()) is None


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_on_a_background_of_the_page_has_a_contrast_of_four_and_a_half(mode: str):
    """The formula is WCAG 2.2's."""
    light, dark, *_ = re.split(r"@media \(prefers-color-scheme: dark\)", (TEMPLATES / "style.css").read_text())
    colours = dict(re.findall(r"--([a-z]+\d?): (#[0-9a-f]{6});", light if mode == "light" else dark.split("* {")[0]))
    pairs = [("ink", f"h{level}") for level in range(HIGHEST_LEVEL + 1)]
    pairs += [(text, ground) for text in ("ink", "soft", "accent") for ground in ("paper", "faint")]
    for text, ground in pairs:
        low, high = sorted([_luminance(colours[text]), _luminance(colours[ground])])
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{text} on {ground}"


def test_scores_of_one_language_have_a_page():
    found = scores(*in_languages("quiz", sw=0.5), sw=1.0)
    shown = part(found)
    assert shown.worst is None and shown.by_language is None and scripts_table(found) is None
    assert isinstance(found.bits_per_byte["sw"], BitsPerByte)


def test_languages_that_are_as_bad_as_the_worst_are_counted():
    """Of eleven at 0% the first by the alphabet was told, as if it were worse than the others."""
    same = {f"a{letter}": 0.25 for letter in "bcdefghijklmn"}
    shown = part(covering(*in_languages("quiz", ru=0.5, **same)))
    assert column(shown.overview, "Worst language") == ["ab 25.0% (and 12 more)"]
    assert shown.worst is not None and len(shown.worst.rows) == 10
    assert shown.worst.caption == "The worst languages, by the mean over tasks; 3 more are at 0.0% like the last"
    few = part(covering(*in_languages("quiz", ru=0.5, sw=0.25)))
    assert few.worst is not None and few.worst.caption == "The worst languages, by the mean over tasks"
