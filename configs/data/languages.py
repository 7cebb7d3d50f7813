"""Language labels: one form for every way to write a language, from the tables of BCP 47 that langcodes brings.

A tag is BCP 47 (`sw`, `zh-Hant`, `pt_BR`), ISO 639-3 with a script (`swh_Latn`), or a locale (`sr_RS.UTF-8@latin`).
Its label is the shortest code of
the language, and the script where it is not the one the language is usually written in: `sw`, `zh-Hant`, `sr-Latn`.

* A code for the main member of a macrolanguage is that of the macrolanguage (`cmn` is `zh`, `arb` is `ar`, `swh` is
  `sw`); other members stay what they are (`yue`, `arz`). This is CLDR's table, which the Hub and Wikipedia follow, and
  two of ISO 639-3 that it lacks: `nb` is `no`, `pbt` is `ps`.
* A region tells the script where it has one of its own (`zh_TW` is `zh-Hant`, `zh_CN` is `zh`) and is no part of the
  label. To keep varieties apart on purpose, name them in private: `x-en-gb`, or `en-x-gb`. Private subtags stay.
"""

import re
from functools import lru_cache

UNDETERMINED = "und"
"""The label of text whose language nobody has said."""

_PRIVATE = re.compile(r"(?:(?P<public>[a-z0-9-]+?)-)?(?P<private>x(?:-[a-z0-9]{1,8})+)")
_LOCALE = re.compile(
    r"(?P<language>[a-z]{2,3})(?:_(?P<region>[A-Z]{2}))?(?:\.[A-Za-z0-9-]+)?(?:@(?P<modifier>[a-z]+))?"
)
"""A locale of POSIX: language, region, codeset and modifier."""

_MODIFIERS = {"latin": "Latn", "cyrillic": "Cyrl", "devanagari": "Deva", "iqtelif": "Latn"}
_USUAL_SCRIPTS = {"azb": "Arab", "acm": "Arab", "acq": "Arab", "ajp": "Arab", "grc": "Grek"}
"""Scripts of languages of which CLDR does not know it."""

_MAIN_MEMBERS = {"nb": "no", "pbt": "ps"}


@lru_cache(maxsize=1 << 16)
def normalize_language(tag: str) -> str:
    """Return the label of a language tag. Raises ValueError, with a sentence, if it is no language's."""
    import langcodes

    if locale := _LOCALE.fullmatch(tag):
        tag = "-".join(filter(None, (locale["language"], _MODIFIERS.get(locale["modifier"] or ""), locale["region"])))
    lowered = tag.replace("_", "-").lower()
    if match := _PRIVATE.fullmatch(lowered):
        return f"{normalize_language(match['public'])}-{match['private']}" if match["public"] else match["private"]
    try:
        is_valid = langcodes.tag_is_valid(tag)
    except ValueError:
        is_valid = False
    if not is_valid:
        private = " of parts of one to eight letters or digits, such as x-en-gb" if lowered.startswith("x-") else ""
        hint = "" if private else _suggest(tag)
        raise ValueError(f"{tag!r} is no language tag{hint}; write BCP 47 (sw, zh-Hant) or x- and a name{private}")
    language = langcodes.Language.get(langcodes.standardize_tag(tag, macro=True))
    code = _MAIN_MEMBERS.get(language.language or UNDETERMINED, language.language or UNDETERMINED)
    if code == UNDETERMINED:
        return f"{code}-{language.script}" if language.script else code
    script = language.script or (language.maximize().script if language.territory else None)
    usual = usual_script(code)
    script = {"Hang": "Kore"}.get(script or "", script)  # Korean in its letters alone
    return code if script in (None, usual) else f"{code}-{script}"


@lru_cache(maxsize=1 << 16)
def usual_script(label: str) -> str | None:
    """Return the script of a language's label: the one that it says, or the usual one; None if none is known."""
    import langcodes

    try:
        language = langcodes.Language.get(label)
    except ValueError:  # a label of nobody's
        return None
    if language.script or label.startswith("x-") or is_undetermined(label):
        return language.script
    return _USUAL_SCRIPTS.get(language.language or "") or language.maximize().script


def is_undetermined(label: str) -> bool:
    """Return whether a label says no language, but perhaps a script: `und`, `und-Cyrl`."""
    return label.partition("-")[0] == UNDETERMINED


@lru_cache(maxsize=1 << 16)
def macrolanguage(label: str) -> str:
    """Return the code of the macrolanguage that a label's language is a member of (ISO 639-3), or its own."""
    from langcodes.data_dicts import MACROLANGUAGES

    code = label.partition("-")[0]
    return MACROLANGUAGES.get(code, code)


def is_of(label: str, wanted: str) -> bool:
    """Return whether a label is `wanted`, or, where that says no script, of its language or macrolanguage in any."""
    return label == wanted or ("-" not in wanted and macrolanguage(label) == macrolanguage(wanted))


@lru_cache(maxsize=1 << 16)
def iso_label(label: str) -> str:
    """Return the ISO 639-3 code and the script of a label, `swh_Latn` of `sw`; a label in private use stays.

    Of a macrolanguage it is the code of the member that `normalize_language` gives its label to.
    """
    import langcodes
    from langcodes.data_dicts import NORMALIZED_MACROLANGUAGES

    if label == UNDETERMINED or _PRIVATE.fullmatch(label):
        return label
    members = {main: member for member, main in NORMALIZED_MACROLANGUAGES.items() if len(member) == 3}
    members |= {main: langcodes.Language.get(member).to_alpha3() for member, main in _MAIN_MEMBERS.items()}
    language = langcodes.Language.get(label)
    code = members.get(language.language or "") or language.to_alpha3()
    script = usual_script(label)
    return f"{code}_{script}" if script else code


def _suggest(tag: str) -> str:
    """Return a question after the language that was meant: that of a country, or one written out."""
    import langcodes

    if len(tag) == 2:
        country = f"und-{tag.upper()}"
        is_country = tag.isalpha() and langcodes.tag_is_valid(country)
        return f"; did you mean {langcodes.Language.get(country).maximize().language!r}?" if is_country else ""
    try:
        return f"; did you mean {langcodes.find(tag.replace('_', ' ')).to_tag()!r}?"
    except LookupError:
        return ""
