"""Language tags that a recipe may give to a source: two letters are a code of ISO 639-1."""

_CODES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de "
    "dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id "
    "ie ig ii ik in io is it iu iw ja ji jv jw ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li "
    "ln lo lt lu lv mg mh mi mk ml mn mo mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa "
    "pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th "
    "ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu "
)

ISO_639_1 = frozenset(_CODES.split())
"""The codes of ISO 639-1, and those it has withdrawn, which older corpora have."""

_COUNTRIES = {"jp": "ja", "cn": "zh", "gr": "el", "ua": "uk", "cz": "cs", "dk": "da", "vn": "vi", "us": "en"}
"""Codes of countries that are written for their language, and are no language's."""


def explain_tag(tag: str) -> str | None:
    """Return why a tag is no language's, in a sentence; None if it may be one."""
    first = tag.replace("_", "-").partition("-")[0].lower()
    if len(first) != 2 or first in ISO_639_1:
        return None
    meant = f"did you mean {_COUNTRIES[first]!r}? " if first in _COUNTRIES else ""
    return (
        f"language {tag!r} begins with two letters that are no code of ISO 639-1; {meant}(a tag of your own may begin "
        "with x-)"
    )
