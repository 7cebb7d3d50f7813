"""The language of a text, by statistical models and the script of its letters, with no network.

`cld2` asks CLD2 first, which is fast, and py3langid, which knows 139 languages, when it is not sure or finds a
language that is not written in the text's script. `fasttext` asks a file of the user's: lid.176, GlotLID, OpenLID.
All labels go through one table (configs/data/languages.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from configs.data.languages import UNDETERMINED, normalize_language, usual_script
from configs.data.text import IdentifyConfig
from data_prep.text.fasttext_model import load_fasttext, predict
from data_prep.text.scripts import NO_SCRIPT, find_main_script, label_in_script

SAMPLE_CHARACTERS = 1024
"""Characters of a longer text that are looked at: a third each from its beginning, its middle and its end."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The language that a text is in."""

    label: str
    """The label that `normalize_language` gives: `und-SCRIPT` if only the script is known, `und` of a text without
    letters."""

    score: float
    """Between 0 and 1. `cld2`: the share of the text in this language; `py3langid`, `fasttext`: its probability among
    the languages of the model; `script`: 1 if no other language of the models is written so, else 0."""

    backend: str
    """Who found it: `cld2`, `py3langid`, `fasttext`, or `script`, by the script alone."""


def make_identifier(config: IdentifyConfig) -> Callable[[str], Identified]:
    """Return the function that identifies texts. Raises UserError if what it needs is missing or is no model."""
    if config.backend == "fasttext":
        model = load_fasttext(str(config.model), "identify.model")
        return lambda text: _identify_by_fasttext(model, _sample(text))
    _load_cld2(), _load_py3langid()
    return lambda text: _identify_by_cld2(_sample(text))


def _sample(text: str) -> str:
    if len(text) <= SAMPLE_CHARACTERS:
        return text
    size, middle = SAMPLE_CHARACTERS // 3, len(text) // 2
    return "\n".join((text[:size], text[middle - size // 2 : middle + size // 2], text[-size:]))


def _identify_by_cld2(text: str) -> Identified:
    cld2, script = _load_cld2(), find_main_script(text)
    if script == NO_SCRIPT:
        return Identified(UNDETERMINED, 0.0, "script")
    try:
        is_reliable, _, (first, *_) = cld2.detect(text.encode("utf-8", "replace"), isPlainText=True)
    except cld2.error:  # characters that Unicode has not assigned
        is_reliable, first = False, ("", "", 0, 0.0)
    if is_reliable and (label := _find_fitting([first[1]], script)):
        return Identified(label[1], first[2] / 100, "cld2")
    ranked = _load_py3langid().rank(text)
    if found := _find_fitting((code for code, _ in ranked), script):
        return Identified(found[1], min(1.0, float(ranked[found[0]][1])), "py3langid")
    return _identify_by_script(script)


def _identify_by_fasttext(model: Any, text: str) -> Identified:
    script = find_main_script(text)
    if script == NO_SCRIPT:
        return Identified(UNDETERMINED, 0.0, "script")
    for number in (1, None):  # the most likely one, which takes less time, or the first in the text's script
        ranked = predict(model, text, number=number)
        if found := _find_fitting((label.removeprefix("__label__") for label, _ in ranked), script):
            return Identified(found[1], ranked[found[0]][1], "fasttext")
    return Identified(f"{UNDETERMINED}-{script}", 0.0, "script")


def _find_fitting(codes: Iterable[str], script: str) -> tuple[int, str] | None:
    """Return the place and the label of the first code of a language that is written in a script."""
    for place, code in enumerate(codes):
        label = _label_of(code)
        if label and (own := label_in_script(label, script)):
            return place, own
    return None


@cache
def _label_of(code: str) -> str:
    """Return the label of a model's code; empty if it is no language's, such as `zxx` and CLD2's `xx-Runr`."""
    try:
        label = normalize_language(code)
    except ValueError:
        return ""
    return "" if label.startswith((UNDETERMINED, "zxx", "mul")) else label


def _identify_by_script(script: str) -> Identified:
    only = _languages_by_script().get(script, ())
    if len(only) == 1:
        return Identified(only[0], 1.0, "script")
    return Identified(f"{UNDETERMINED}-{script}", 0.0, "script")


@cache
def _languages_by_script() -> dict[str, tuple[str, ...]]:
    """Return which languages of the models are usually written in each script."""
    codes = [*dict(_load_cld2().LANGUAGES).values(), *_load_py3langid().labels]
    labels = sorted({label for label in map(_label_of, codes) if label})
    return {
        script: tuple(label for label in labels if usual_script(label) == script)
        for script in {usual_script(label) or NO_SCRIPT for label in labels}
    }


@cache
def _load_cld2() -> Any:
    import pycld2

    return pycld2


@cache
def _load_py3langid() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
