"""Personal data in a text, each replaced by a placeholder that says what it was; never in mathematics or code.

A number is taken only where something beside its digits speaks for it: an address of the internet that is public, with
a word or a port that says so, since versions and sections are written in the same way; a card's number with its check
digit, in its groups or after a word; an account's with its country's rules and checksum (python-stdnum); a telephone's
with its country's code, or after a word, by the rules of its country (phonenumbers).
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import regex

from data_prep.text.spans import CODE, MATH, Spans

_DIGIT = re.compile(r"\d")
_IN_CODE = re.compile(r"\(|:[~/\w.-]+/")
"""What follows a name of code, or the host of a repository, `git@host:name/`."""

Found = tuple[int, int]
"""Where it begins and ends."""

_CONTEXT = 40
"""Characters before a number in which a word may say what it is."""

_AT = re.compile(r"(?<=[\w.+%-])@(?=\w)")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LOCAL = regex.compile(r"[\w.+%-]{1,64}\Z")
_SPACED_LOCAL = regex.compile(rf"[[\w.+%-]--[{_UNSPACED}]]{{1,64}}\Z", regex.V1)
"""Before the sign: first without letters of scripts in which a sentence has no spaces."""

_DOMAIN = regex.compile(
    r"@(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
    r"|(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![^\W_]))"
)
_TOP_LEVEL = frozenset(
    """com org net edu gov mil int info biz name pro mobi asia aero coop museum jobs travel tel cat post app dev xyz
    online site shop store tech cloud blog page email news live world today space website agency digital media academy
    school science wiki group team network systems solutions support services center studio design consulting
    foundation health bank africa berlin london paris tokyo nyc swiss""".split()  # noqa: SIM905
)
"""The generic domains that addresses of mail end with most; those of countries have two letters."""

_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)")
_MAYBE_IPV4, _MAYBE_IPV6 = re.compile(r"\.\d{1,3}\.\d{1,3}\b"), re.compile(r":[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]")
"""What begins with one character, which is looked for fast."""

_IPV6 = re.compile(
    r"(?<![0-9A-Fa-f:.])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![0-9A-Fa-f:]|\.\d)"
)
"""Global unicast addresses begin with 2 or 3 (RFC 4291)."""

_IP_BEFORE = re.compile(
    r"(?:\b(?:ip|ips|ipv[46]|addr(?:ess)?|adresse|direcci[oó]n|host|server|servidor|serveur|client|gateway|router|dns|"
    r"nameserver|peer|proxy|subnet|netmask|ping|ssh|telnet|traceroute|whois|login|logged|connect(?:ed|ion)?|remote)\b"
    r"|[a-z]{2,6}://|адрес|сервер|地址|服务器|アドレス|サーバ|주소|서버|عنوان)[^\n]{0,30}\Z",
    re.I,
)
_IP_AFTER = re.compile(r":\d{2,5}\b|/(?:[89]|[12]\d|3[0-2])\b| - - \[")
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:v|ver|version|versione|versión|release|section|sec|chapter|§|rev|build|oid)\.?\s*|[\w)]/)\Z", re.I
)

_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ \u00a0]?[A-Z0-9]{4}){2,7}(?:[ \u00a0]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"
)

_CARD = re.compile(
    r"(?<![\d.,+-])(?<!\d{4}[ \u00a0])"
    r"(?:[2-6]\d{3}([ \u00a0-])\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ \u00a0-])\d{6}\2\d{5}|[2-6]\d{15}|3[47]\d{13})"
    r"(?!\d|[.,-]\d|[ \u00a0]\d{4})"
)
_CARD_BEFORE = re.compile(
    r"(?:\bcards?\b|visa|master|amex|american express|maestro|credit|debit|karte|carte|tarjeta|cart[aã]o|carta|карт"
    r"|カード|卡|카드|بطاقة)[^\n]{0,30}\Z",
    re.I,
)

_PHONE = re.compile(r"(?<![A-Za-z0-9_+.})\]])(?:\(?\+|00)?[(\d][\d \u00a0()./-]{5,20}\d(?![A-Za-z0-9_])")
_DECIMAL, _GROUP = re.compile(r"\+?\d{1,2}\.\d{2,}(?!\.)"), re.compile(r"\d+")
_MORE_COLUMNS = re.compile(r"[ \t]+[+-]?\d+\.\d")
"""What follows a number in a table."""

_PHONE_BEFORE = re.compile(
    r"(?:\b(?:tel|tél|tlf|t[eé]l[eéè](?:f|ph)[oóò]o?n\w*|phone|fax|mobile?|mob|call|whatsapp|hotline|puhelin"
    r"|telepon|simu|điện thoại)\b|\btel:|☎|📞|☏|тел|факс|τηλ|טל|電話|电话|手机|手機|휴대폰|전화|هاتف|تلفن|फ़ोन|फोन"
    r"|मोबाइल|ফোন|โทร)[^\n\d]{0,20}\Z",
    re.I,
)


def _is_mail(domain: str) -> bool:
    """Return whether a domain ends as those of mail do: `tensor@self.weight` is none."""
    last = domain.rpartition(".")[2].lower()
    return len(last) == 2 or last in _TOP_LEVEL or not last.isascii()


def _find_emails(text: str, region: str) -> Iterator[Found]:
    for at in _AT.finditer(text):
        domain = _DOMAIN.match(text, at.start())
        if not domain or not _is_mail(domain[0]) or _IN_CODE.match(text, domain.end()):
            continue
        for pattern in (_SPACED_LOCAL, _LOCAL):
            if local := pattern.search(text, max(0, at.start() - 64), at.start()):
                start = local.start() + len(local[0]) - len(local[0].lstrip("_.+-%"))
                if start < at.start() and text[start - 3 : start] != "://":
                    yield start, domain.end()
                break


def _find_addresses(text: str, region: str) -> Iterator[Found]:
    for match in _IPV4.finditer(text) if _MAYBE_IPV4.search(text) else ():
        before = text[max(0, match.start() - _CONTEXT) : match.start()]
        is_said = _IP_BEFORE.search(before) or _IP_AFTER.match(text, match.end())
        if is_said and _is_public(match[0]) and not _VERSION_BEFORE.search(before):
            yield match.span()
    for match in _IPV6.finditer(text) if _MAYBE_IPV6.search(text) else ():
        if match[0].count(":") > 2 and _is_public(match[0]):
            yield match.span()


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _find_accounts(text: str, region: str) -> Iterator[Found]:
    from stdnum import iban

    for match in _IBAN.finditer(text):
        for stop in _ends_of_groups(match, 15):
            if iban.is_valid(text[match.start() : stop]):
                yield match.start(), stop
                break


def _ends_of_groups(match: re.Match[str], least: int) -> Iterator[int]:
    """Yield where a number of at least so many characters may end, the longest first: others may follow it."""
    yield match.end()
    for place in range(len(match[0]) - 1, least - 1, -1):
        if match[0][place] in " \u00a0":
            yield match.start() + place


def _find_cards(text: str, region: str) -> Iterator[Found]:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        is_grouped = len(digits) < len(match[0])
        before = text[max(0, match.start() - _CONTEXT) : match.start()]
        if len(set(digits)) > 1 and luhn.is_valid(digits) and (is_grouped or _CARD_BEFORE.search(before)):
            yield match.span()


def _find_phones(text: str, region: str) -> Iterator[Found]:
    import phonenumbers

    for match in _PHONE.finditer(text):
        if _DECIMAL.match(match[0]) or _MORE_COLUMNS.match(text, match.end()):
            continue
        is_international = match[0].startswith(("+", "(+")) or (match[0].startswith("00") and not match[0].isdigit())
        before = text[max(0, match.start() - _CONTEXT) : match.start()]
        if not is_international and not _PHONE_BEFORE.search(before):
            continue
        for stop in _ends_of_groups(match, 7):
            number = re.sub(r"\A00", "+", text[match.start() : stop])
            try:
                parsed = phonenumbers.parse(number, region or None)
            except phonenumbers.NumberParseException:
                continue
            if phonenumbers.is_valid_number(parsed):
                if len(_GROUP.findall(text[stop : match.end()])) > 1:  # columns of numbers
                    break
                is_within = number.startswith("(") and number.count("(") > number.count(")")
                yield match.start() + is_within, stop
                break


_FINDERS: dict[str, tuple[Callable[[str, str], Iterator[Found]], int]] = {
    "email": (_find_emails, 0),
    "ip": (_find_addresses, 1),
    "iban": (_find_accounts, 9),
    "card": (_find_cards, 15),
    "phone": (_find_phones, 6),
}
"""By kind: what finds it, and the digits of a text that may hold it. The first kind that finds a place has it."""

KINDS = tuple(_FINDERS)


@lru_cache(maxsize=1 << 12)
def _region_of(language: str) -> str:
    """Return the country that a language is spoken in most, whose rules its telephone numbers without a code follow."""
    import langcodes

    return "" if language.startswith(("und", "x-")) else langcodes.Language.get(language).maximize().territory or ""


def replace_personal_data(text: str, spans: Spans, kinds: Sequence[str], *, language: str) -> tuple[str, Counter[str]]:
    """Return the text with a placeholder, `<email-pii>`, for what is found of these kinds; and counts by kind."""
    counts: Counter[str] = Counter()
    num_digits = sum(map(text.count, "0123456789")) if text.isascii() else len(_DIGIT.findall(text))
    taken = [(span.start, span.stop, "") for span in spans.spans if span.kind in (MATH, CODE)]
    for kind, (find, least_digits) in _FINDERS.items():
        if kind in kinds and num_digits >= least_digits:
            found = [(start, stop, kind) for start, stop in find(text, _region_of(language))]
            taken = _without_overlaps(taken, found)
    pieces, done = [], 0
    for start, stop, kind in taken:
        if kind:
            counts[kind] += 1
            pieces += [text[done:start], f"<{kind}-pii>"]
            done = stop
    return "".join([*pieces, text[done:]]), counts


def _without_overlaps(
    taken: list[tuple[int, int, str]], found: list[tuple[int, int, str]]
) -> list[tuple[int, int, str]]:
    """Return both in order, without those of `found` that overlap what is taken."""
    merged: list[tuple[int, int, str]] = []
    place = 0
    for one in found:
        while place < len(taken) and taken[place][0] < one[1]:
            merged.append(taken[place])
            place += 1
        if not merged or merged[-1][1] <= one[0]:
            merged.append(one)
    return merged + taken[place:]
