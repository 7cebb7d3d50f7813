"""The script that a text is written in: ISO 15924 codes, from the tables of Unicode that fontTools brings."""

import sys
from collections.abc import Iterable
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from configs.data.languages import usual_script

NO_SCRIPT = "Zyyy"
"""The code of characters that belong to no script, such as digits, and of texts of these alone."""

_SHARED = (NO_SCRIPT, "Zinh", "Zzzz")
"""Common, inherited and unknown: what says nothing of a text's script."""

_PARTS = {"Jpan": ("Hira", "Kana", "Hani"), "Kore": ("Hang", "Hani"), "Hans": ("Hani",), "Hant": ("Hani", "Bopo")}
"""Codes of ways to write that are made of several scripts, or are a form of one."""

_ALSO_WRITTEN = {
    "az": ("Arab", "Cyrl"),
    "bs": ("Cyrl",),
    "crh": ("Cyrl",),
    "ha": ("Arab",),
    "kk": ("Arab", "Latn"),
    "ks": ("Deva",),
    "ku": ("Arab", "Cyrl"),
    "ky": ("Arab", "Latn"),
    "mn": ("Mong",),
    "ms": ("Arab",),
    "pa": ("Arab",),
    "sa": ("Telu", "Knda", "Mlym", "Beng", "Gran"),
    "sd": ("Deva",),
    "sr": ("Latn",),
    "tg": ("Arab", "Latn"),
    "tk": ("Arab", "Cyrl"),
    "tt": ("Arab", "Latn"),
    "ug": ("Cyrl", "Latn"),
    "uz": ("Arab", "Cyrl"),
    "yue": ("Hans",),
    "zh": ("Hant", "Bopo"),
}
"""Scripts that are not the usual one of a language that is written in more than one."""


@cache
def _tables() -> tuple[list[str], npt.NDArray[np.uint8]]:
    """Return the codes of all scripts, and for each character the number of its script's code."""
    from fontTools.unicodedata import Scripts

    codes = sorted(set(Scripts.VALUES))
    numbers = {code: number for number, code in enumerate(codes)}
    starts = np.array(Scripts.RANGES)
    lengths = np.diff(starts, append=sys.maxunicode + 1)
    values = np.array([numbers[value] for value in Scripts.VALUES], dtype=np.uint8)
    return codes, np.repeat(values, lengths)


def script_numbers(text: str) -> npt.NDArray[np.uint8]:
    """Return the number of the script of each character of a text, as `numbers_of_scripts` gives it."""
    numbers: npt.NDArray[np.uint8] = _tables()[1][np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")]
    return numbers


def numbers_of_scripts(codes: Iterable[str]) -> list[int]:
    """Return the numbers, as `script_numbers` gives them, of scripts by their codes."""
    known = _tables()[0]
    return [known.index(code) for code in codes]


def count_scripts(text: str) -> dict[str, int]:
    """Return how many characters of a text are in each script; those in none of them are left out."""
    codes, _ = _tables()
    counts = np.bincount(script_numbers(text), minlength=len(codes))
    return {codes[place]: int(counts[place]) for place in np.flatnonzero(counts) if codes[place] not in _SHARED}


def find_main_script(text: str) -> str:
    """Return the script that most of a text's letters are in, the first by its code of several; NO_SCRIPT if none."""
    counts = count_scripts(text)
    return min(counts, key=lambda code: (-counts[code], code)) if counts else NO_SCRIPT


@lru_cache(maxsize=1 << 12)
def label_in_script(label: str, script: str) -> str | None:
    """Return the label of a language for a text in a script, `uz-Cyrl`; None if it is not written in it."""
    usual = usual_script(label) or NO_SCRIPT
    if script in (usual, NO_SCRIPT) or script in _PARTS.get(usual, ()):
        return label
    return f"{label}-{script}" if script in _ALSO_WRITTEN.get(label, ()) else None
