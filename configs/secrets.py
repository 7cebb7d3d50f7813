"""Recognise secrets: by the names of the variables that hold them, and by their shapes in text."""

import re
from collections.abc import Iterator
from typing import Any

from configs.messages import Location

REDACTED = "[redacted]"
"""Replacement for a secret."""

SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|KEY\d*|TOKEN|SECRET|PASS|PASSWORD|PASSWD|PASSPHRASE|PAT|CREDENTIALS?|WEBHOOK)(_|$)"
    r"|(?<!BY)(?<!COM)PASS(WORD|WD|PHRASE)?$|_PWD$|(^|_)AUTH$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are secrets. PWD alone is a directory; AUTH_... are settings."""

MIN_CHARACTERS = 6
"""A shorter value of an environment variable would be found all over a text, so it is not redacted."""

_CLOSING = r"""(?=[,;}\])]{0,8}(?:\s|\Z|\\{0,8}["']))"""
"""End of a value without quotes: a space or a quote. The punctuation before it is kept, so that JSON and YAML stay
valid."""

_VALUE = (
    r"""(?!\[redacted\])(?:(?P<quote>\\*["'])(?:(?!(?P=quote))(?:\\.|.)){1,4096}(?P=quote)"""
    rf"""|["'\\]?[^\s"'\\,;}}\])][^\s"']*?{_CLOSING})"""
)
"""A value: a quoted text, or all up to the next space or quote, since a password may hold anything else."""

_END = r"""(?:\\*["'])?\s*(?:=>?|:)\s*"""
"""What stands between a name and its value in a shell, YAML, JSON, Python and JSON within JSON."""

_SURE = r"pass(?:word|wd|phrase)s?|secrets?|credentials?|(?:api|access|secret|private|auth|signing|account)[_-]?keys?"
_LAST = r"(?<=[A-Z0-9]_)(?:AUTH|PAT)|(?<=[A-Z0-9_])(?<!BY)(?<!COM)PASS|(?<![A-Z0-9])WEBHOOK"
_UPPER = (
    r"(?-i:(?<=[A-Z0-9]_)(?:KEY\d*|PWD)|(?<![A-Z0-9])(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY)(?=_)"
    rf"|(?:{_LAST})(?=[\"'\\\s=:]|_URL))"
)
_MORE_NAME = r"(?-i:_(?!PATH\b)[A-Z0-9_]{1,40})?"
_TOKEN = "".join(rf"(?<!{word}[_ -])" for word in ("pad", "eos", "bos", "unk", "mask", "sep", "cls", "per")) + "token"
_NUMBER = r"""(?!["']?[-+\d.,e]+["']?(?:[\s,;)}\]]|$))"""
_PLAIN = r"""(?!null\b|none\b|true\b|false\b|["']?[<\[])"""
_PROSE = r"(?<=: )(?=[A-Za-z]{1,19}[ .,;][ A-Za-z])"
"""`wrong token: expected one of` is no assignment."""

_SHAPES = re.compile(
    r"""-----BEGIN[ ][A-Z0-9 ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?-----.*?(?:-----END[ ][A-Z0-9 ]*KEY(?:[ ]BLOCK)?-----|\Z)
    | (?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{16,}
        | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_[A-Za-z0-9_]{16,} | glpat-[A-Za-z0-9_-]{16,}
        | wandb_v\d+_[A-Za-z0-9_-]{16,} | sk-[A-Za-z0-9_-]{20,} | AIza[A-Za-z0-9_-]{30,}
        | (?:AKIA|ASIA)[A-Z0-9]{16}(?:[\s:,;"']{1,4}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+]))?
        | eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+
    )""",
    re.DOTALL | re.VERBOSE,
)
"""Secrets with a shape of their own: PEM private keys; tokens of Hugging Face, GitHub, GitLab, Weights & Biases, AWS
and others; JSON web tokens."""

_NAMED = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<keep>authorization{_END}(?:\\*[\"'])?(?:(?:bearer|basic|token|digest|negotiate)\s+)?+)(?!\[redacted\])"
        r"[^\s\"'\\]+",
        rf"(?P<keep>\bbearer\s+)(?!\[redacted\])[A-Za-z0-9._~+/=-]{{{MIN_CHARACTERS},}}",
        r"(?P<keep>\bcookie2?:\s*[\"']?)(?!\[redacted\])[^\s\"'\\][^\"'\\\n]*",
        r"(?P<keep>://[^\s/@:\"'<>]*:)(?!\[redacted\])[^\s/\"'<>]+(?=@)",
        r"(?P<keep>://)(?!\[redacted\])[^\s/@:\"'<>]{20,}(?=@)",
        r"(?P<keep>\blogin\s+\S+\s+password\s+)(?!\[redacted\])\S+",
        r"(?P<keep>\bwandb login\s+(?:-\S+\s+)*)[0-9a-f]{40,}",
        rf"(?P<keep>--[a-z0-9-]{{0,30}}(?:{_SURE}|token)(?:[\"'],?\s+[\"']?|\s+))(?!-|\[redacted\])[^\s\"']+",
        rf"(?P<keep>(?:{_SURE}|{_UPPER}){_MORE_NAME}{_END}){_PLAIN}{_VALUE}",
        rf"(?P<keep>{_TOKEN}{_END})(?!{_PROSE}){_NUMBER}{_PLAIN}{_VALUE}",
        rf"(?P<keep>x-amz-(?:signature|credential){_END}|[?&]sig=){_VALUE}",
        r"(?P<keep>(?<![\w-])key\\*[\"']?\s*[=:]\s*\\*[\"']?)"
        r"(?-i:(?=\S*\d)(?=\S*[A-Z])(?=\S*[a-z])[A-Za-z0-9+/_=-]{16,})",
    )
]
"""Values that are secret by the name before them; the group `keep` is kept."""

_HINT = re.compile(
    r"pass|secret|credential|key|token|pwd|auth|pat|webhook|bearer|cookie|://|wandb login|x-amz|sig=", re.IGNORECASE
)


_IN_RECIPES = re.compile(rf"{_SHAPES.pattern}|://[^\s/@:\"'<>]*:[^\s/\"'<>]+@", _SHAPES.flags)

_EXPANSION = re.compile(r"\$\([^)]*\)|\$\{[^}]*\}|\$\w+|`[^`]*`")
"""What a shell replaces by a value, so its text holds no secret."""


def is_secret(name: str) -> bool:
    """Return whether an environment variable of this name holds a secret; one that holds a path does not."""
    return bool(SECRET_NAME.search(name)) and not name.upper().endswith("_PATH")


def without_secrets(text: str) -> str:
    """Return `text` with `[redacted]` in place of each token, password and private key.

    They are recognised by their shape or by the name before them; commits and checksums are not. A private key of
    several lines must be passed in one piece.
    """
    text = _SHAPES.sub(REDACTED, text)
    if _HINT.search(text):
        for pattern in _NAMED:
            text = pattern.sub(_keep_name, text)
    return text


def find_secrets(tree: Any, *, named: bool, at: Location = ()) -> Iterator[Location]:
    """Yield the locations of secrets in a file that people write.

    With `named`, also of values that are secret only by the name before them.
    """
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from find_secrets(value, named=named, at=(*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from find_secrets(value, named=named, at=(*at, index))
    elif isinstance(tree, str) and (_has_named_secret(tree) if named else _has_shaped_secret(tree)):
        yield at


def _has_named_secret(text: str) -> bool:
    text = _EXPANSION.sub(REDACTED, text)
    return without_secrets(text) != text


def _has_shaped_secret(text: str) -> bool:
    """Return whether the text has a secret by its shape. A path or title may begin as a token does (`sk-` is Slovak,
    too), so such a word must also look random."""
    found = (match[0] for match in _IN_RECIPES.finditer(text))
    return any(not re.match(r"hf_|sk-", word) or _looks_random(word) for word in found)


def _looks_random(word: str) -> bool:
    return all(re.search(kind, word[3:]) for kind in ("[a-z]", "[A-Z]", "[0-9]"))


def _keep_name(match: re.Match[str]) -> str:
    quote_mark = match.groupdict().get("quote") or ""
    return f"{match['keep']}{quote_mark}{REDACTED}{quote_mark}"
