"""Every way to write a language becomes one label, and what is no language is refused with a hint."""

import pytest

from configs.data.languages import normalize_language

LABELS = {
    "sw": ("sw", "swh", "swh_Latn", "SW", "swa", "sw-KE"),
    "zh": ("zh", "zh_CN", "zho_Hans", "cmn", "zh-Hans", "zh-SG"),
    "zh-Hant": ("zh-TW", "zh_Hant", "zho_Hant", "zh-HK"),
    "yue": ("yue", "yue_Hant"),
    "sr": ("sr", "srp_Cyrl", "sr_RS"),
    "sr-Latn": ("sr-Latn", "sr_Latn_RS", "sh", "sr@latin", "sr_RS.UTF-8@latin"),
    "ar": ("ar", "arb", "arb_Arab", "ar-EG"),
    "arz": ("arz",),
    "no": ("no", "nb", "nob", "nob_Latn", "nor"),
    "nn": ("nn", "nno"),
    "ps": ("ps", "pbt_Arab", "pus"),
    "pt": ("pt", "pt_BR", "por_Latn", "pt_BR.UTF-8"),
    "ca": ("ca", "ca@valencia"),
    "he": ("he", "iw"),
    "ko": ("ko", "kor_Hang", "ko-Kore", "ko_KR"),
    "azb": ("azb", "azb_Arab"),
    "azb-Latn": ("azb_Latn",),
    "acm": ("acm", "acm_Arab"),
    "und": ("und",),
    "x-en-gb": ("x-en-gb", "X_EN_GB"),
    "en-x-legal": ("en-x-legal", "eng_Latn_x_legal", "en-GB-x-Legal"),
}


@pytest.mark.parametrize(("label", "written"), [(label, tag) for label, tags in LABELS.items() for tag in tags])
def test_every_way_to_write_a_language_becomes_one_label(label: str, written: str) -> None:
    assert normalize_language(written) == label
    assert normalize_language(label) == label, "a label is a tag of itself"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("jp", "did you mean 'ja'?"),
        ("Swahili", "did you mean 'sw'?"),
        ("english", "did you mean 'en'?"),
        ("", "'' is no language tag"),
        ("x-", "parts of one to eight letters or digits"),
        ("x-../../evil", "parts of one to eight letters or digits"),
        ("x-*", "parts of one to eight letters or digits"),
        ("en-x-much.too/long", "is no language tag"),
        ("x-subtagthatistoolong", "parts of one to eight letters or digits"),
        ("qq-x-a", "'qq' is no language tag"),
    ],
)
def test_what_is_no_language_is_refused(written: str, says: str) -> None:
    with pytest.raises(ValueError, match="is no language tag") as caught:
        normalize_language(written)
    assert says in str(caught.value) and "\n" not in str(caught.value)
