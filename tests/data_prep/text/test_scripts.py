"""The script of a text, and the label of a language in it."""

import pytest

from data_prep.text.scripts import NO_SCRIPT, count_scripts, find_main_script, label_in_script, usual_script


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("Latn", "Straße, naïve ‘words’"),
        ("Cyrl", "Это слова"),
        ("Grek", "Αυτές είναι λέξεις"),
        ("Arab", "هذه كلمات"),
        ("Hebr", "אלה מילים"),
        ("Deva", "ये शब्द हैं"),
        ("Beng", "এগুলো শব্দ"),
        ("Taml", "இவை சொற்கள்"),
        ("Telu", "ఇవి పదాలు"),
        ("Thai", "นี่คือคำ"),
        ("Laoo", "ນີ້ແມ່ນຄຳ"),
        ("Khmr", "នេះជាពាក្យ"),
        ("Mymr", "ဒါက စကားလုံး"),
        ("Tibt", "འདི་ཚིག་རེད།"),
        ("Geor", "ეს სიტყვებია"),
        ("Armn", "Սրանք բառեր են"),
        ("Ethi", "እነዚህ ቃላት ናቸው"),
        ("Hani", "这些是词"),
        ("Hira", "これはことばです"),
        ("Kana", "カタカナノコトバ"),
        ("Hang", "이것은 말이다"),
        ("Thaa", "މިއީ ބަހެވެ"),
        ("Cher", "ᏣᎳᎩ"),
        ("Nkoo", "ߒߞߏ"),
        ("Goth", "𐌲𐌿𐍄"),
    ],
)
def test_main_script_is_that_of_the_words(script: str, text: str) -> None:
    assert find_main_script(text) == script
    assert find_main_script(f"2024: {text} — (100 %) 😀") == script


@pytest.mark.parametrize("text", ["", "12 345.67", "…!? — €", "😀🎉", "\0\n\t", "\u0301\u0301", "\ue000\U000e0fff"])
def test_a_text_without_letters_has_no_script(text: str) -> None:
    assert find_main_script(text) == NO_SCRIPT == "Zyyy"
    assert count_scripts(text) == {}


def test_a_mixed_text_has_the_script_of_most_letters() -> None:
    text = "Слово word и ещё слова: 1 2 3"
    assert count_scripts(text) == {"Cyrl": 14, "Latn": 4}
    assert find_main_script(text) == "Cyrl"
    assert find_main_script("ab Щщ") == "Cyrl", "of as many letters, the first code"


@pytest.mark.parametrize(
    ("label", "script", "expected"),
    [
        ("en", "Latn", "en"),
        ("en", "Cyrl", None),
        ("en", NO_SCRIPT, "en"),
        ("ru", "Latn", None),
        ("uz", "Latn", "uz"),
        ("uz", "Cyrl", "uz-Cyrl"),
        ("uz", "Arab", "uz-Arab"),
        ("uz-Cyrl", "Cyrl", "uz-Cyrl"),
        ("uz-Cyrl", "Latn", None),
        ("sr", "Cyrl", "sr"),
        ("sr", "Latn", "sr-Latn"),
        ("sr-Latn", "Latn", "sr-Latn"),
        ("mn", "Mong", "mn-Mong"),
        ("pa", "Arab", "pa-Arab"),
        ("ja", "Hira", "ja"),
        ("ja", "Kana", "ja"),
        ("ja", "Hani", "ja"),
        ("ja", "Hang", None),
        ("ko", "Hang", "ko"),
        ("ko", "Hani", "ko"),
        ("ko", "Hira", None),
        ("zh", "Hani", "zh"),
        ("zh", "Hira", None),
        ("zh-Hant", "Hani", "zh-Hant"),
        ("yue", "Hani", "yue"),
        ("hi-Latn", "Latn", "hi-Latn"),
        ("hi-Latn", "Deva", None),
        ("azb", "Arab", "azb"),
        ("acm", "Arab", "acm"),
        ("en-x-gb", "Latn", "en-x-gb"),
    ],
)
def test_a_label_in_a_script_says_so_where_it_is_not_the_usual_one(
    label: str, script: str, expected: str | None
) -> None:
    assert label_in_script(label, script) == expected


def test_usual_scripts_of_labels() -> None:
    scripts = {label: usual_script(label) for label in ("sw", "sr", "sr-Latn", "ur", "am", "und-Thai")}
    assert scripts == {
        "sw": "Latn",
        "sr": "Cyrl",
        "sr-Latn": "Latn",
        "ur": "Arab",
        "am": "Ethi",
        "und-Thai": "Thai",
    }


@pytest.mark.parametrize(
    ("text", "script"),
    [("\ud800", NO_SCRIPT), ("word \udfff word", "Latn"), ("\ud800\ud800\ud800 да", "Cyrl"), ("\udc80" * 5, NO_SCRIPT)],
)
def test_lone_surrogates_belong_to_no_script(text: str, script: str) -> None:
    assert find_main_script(text) == script
