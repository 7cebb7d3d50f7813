"""Personal data is found, and what only looks like it stays."""

from collections import Counter

import pytest

from configs.data.text import PersonalDataConfig
from data_prep.text.personal_data import replace_personal_data
from data_prep.text.spans import find_spans

ALL = PersonalDataConfig().replace


def replace(text: str, language: str = "en", kinds: tuple[str, ...] = ALL) -> tuple[str, Counter[str]]:
    return replace_personal_data(text, find_spans(text), kinds, language=language)


def replaced(text: str, language: str = "en") -> str:
    return replace(text, language)[0]


EMAILS = [
    ("Write to ana@example.com.", "Write to <email-pii>."),
    ("(ana.b+c@mail.example.co.uk)", "(<email-pii>)"),
    ("<ana@example.com>, [bob@example.org]", "<<email-pii>>, [<email-pii>]"),
    ("mailto:ana@example.com?subject=x", "mailto:<email-pii>?subject=x"),
    ("'ana@example.com'", "'<email-pii>'"),
    ("ana@example.com,bob_b@example.org;c-d@example.net", "<email-pii>,<email-pii>;<email-pii>"),
    ("ANA@EXAMPLE.COM!", "<email-pii>!"),
    ("почта: иван@пример.рф", "почта: <email-pii>"),
    ("ana@münchen.de", "<email-pii>"),
    ("ana@xn--mnchen-3ya.de", "<email-pii>"),
    ("用户@例子.公司 是", "<email-pii> 是"),
    ("ana@example.com。谢谢", "<email-pii>。谢谢"),
    ("...ana@example.com...", "...<email-pii>..."),
    ("ana@example.com--the office", "<email-pii>--the office"),
    ("如果有问题请发邮件至ana@example.com我们会尽快回复", "如果有问题请发邮件至<email-pii>我们会尽快回复"),
    ("メールはana@example.comまで", "メールは<email-pii>まで"),
    ("สอบถามที่ana@example.comครับ", "สอบถามที่<email-pii>ครับ"),
    ("विजय@उदाहरण.भारत", "<email-pii>"),
]


@pytest.mark.parametrize(("text", "expected"), EMAILS)
def test_addresses_of_mail_are_found(text: str, expected: str) -> None:
    assert replaced(text) == expected


def test_an_address_of_mail_that_is_stressed_is_found() -> None:
    assert "ana" not in replaced("_ana@example.com_") and "ana" not in replaced("**ana@example.com**")


@pytest.mark.parametrize(
    "text",
    [
        "@ana",
        "ana @ example.com",
        "ana@localhost",
        "ana@example",
        "a@b.c",
        "ana@example..com",
        "ana@1.2.3.4",
        "npm i @scope/name@1.2.3",
        "@decorator\ndef f(): pass",
        "the @ of .com",
        "f(x)@y.z",
        "+@example.com",
    ],
)
def test_not_everything_with_an_at_is_an_address_of_mail(text: str) -> None:
    assert replaced(text) == text


PHONES = [
    ("Ring +44 20 7946 0958 now", "en", "Ring <phone-pii> now"),
    ("(+442079460958), +1 (212) 736-5000.", "en", "(<phone-pii>), <phone-pii>."),
    ("tel:+442079460958", "en", "tel:<phone-pii>"),
    ("+44 (0)20 7946 0958", "en", "<phone-pii>"),
    ("+33.1.42.68.53.00 and +33-1-42-68-53-00", "fr", "<phone-pii> and <phone-pii>"),
    ("aus dem Ausland 0049 30 901820", "de", "aus dem Ausland <phone-pii>"),
    ("+44 20 7946 0958\n+44 20 7946 0959", "en", "<phone-pii>\n<phone-pii>"),
    ("Ring +44 20 7946 0958 24 hours a day", "en", "Ring <phone-pii> 24 hours a day"),
    ("phone 212-736-5000", "en", "phone <phone-pii>"),
    ("Phone: (212) 736-5000, fax: 212.736.5001", "en", "Phone: <phone-pii>, fax: <phone-pii>"),
    ("Telephone: 212-736-5000", "en", "Telephone: <phone-pii>"),
    ("Tel. 030 901820", "de", "Tel. <phone-pii>"),
    ("Telefon: 030/901820", "de", "Telefon: <phone-pii>"),
    ("Tél. : 01 42 68 53 00", "fr", "Tél. : <phone-pii>"),
    ("téléphone 01 42 68 53 00", "fr", "téléphone <phone-pii>"),
    ("Teléfono: 915 212 900", "es", "Teléfono: <phone-pii>"),
    ("telefone 11 3091-3116", "pt", "telefone <phone-pii>"),
    ("telefono 06 488 2211", "it", "telefono <phone-pii>"),
    ("telefoon 020 624 1111", "nl", "telefoon <phone-pii>"),
    ("Telefon: 0212 455 20 00", "tr", "Telefon: <phone-pii>"),
    ("тел. 8 (495) 771-02-38", "ru", "тел. <phone-pii>"),
    ("電話 03-3580-3311", "ja", "電話 <phone-pii>"),
    ("电话：010-6512 3456", "zh", "电话：<phone-pii>"),
    ("联系电话01065123456。", "zh", "联系电话<phone-pii>。"),
    ("请拨打+86 10 6512 3456转人工", "zh", "请拨打<phone-pii>转人工"),
    ("전화: 02-730-5800", "ko", "전화: <phone-pii>"),
    ("هاتف 02 2739 1234", "ar", "هاتف <phone-pii>"),
    ("هاتف ٠٢ ٢٧٣٩ ١٢٣٤ للمكتب", "ar", "هاتف <phone-pii> للمكتب"),
    ("फ़ोन: 011 2338 6500", "hi", "फ़ोन: <phone-pii>"),
    ("ফোন 01711 123456", "bn", "ফোন <phone-pii>"),
    ("โทร 02 222 8181", "th", "โทร <phone-pii>"),
    ("tel 022 211 0811", "sw", "tel <phone-pii>"),
]


@pytest.mark.parametrize(("text", "language", "expected"), PHONES)
def test_numbers_of_telephones_are_found(text: str, language: str, expected: str) -> None:
    assert replaced(text, language) == expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the number 212-736-5000 alone", "en"),
        ("phone 030 901820 of another country", "en"),
        ("call me on 2020-10-11 at 12:30", "en"),
        ("called in 1960, 1970 and 1980", "en"),
        ("contact hours 0900 1700", "en"),
        ("phone numbers: 17, 20, 30", "en"),
        ("telescope 212 736 5000", "en"),
        ("Telegram 212 736 5000", "en"),
        ("EAN 0012345678905", "en"),
        ("+1.5 degrees, +49, +1000000000 dollars, +0530", "en"),
        ("+1 000 000 0000", "en"),
        ("00 00 00 00 00", "en"),
        ("x+442079460958", "en"),
        ("tel 212-736-5000", "und"),
        ("tel 212-736-5000", "x-mine"),
    ],
)
def test_numbers_alone_are_no_telephones(text: str, language: str) -> None:
    assert replaced(text, language) == text


ADDRESSES = [
    ("server 93.184.216.34 is down", "server <ip-pii> is down"),
    ("IP address: 93.184.216.34.", "IP address: <ip-pii>."),
    ("IPs 93.184.216.34, 1.1.1.1 and 9.9.9.9", "IPs <ip-pii>, <ip-pii> and <ip-pii>"),
    ("93.184.216.34:8080", "<ip-pii>:8080"),
    ("93.184.216.0/24", "<ip-pii>/24"),
    ("http://93.184.216.34/path", "http://<ip-pii>/path"),
    ("ssh root@93.184.216.34", "ssh root@<ip-pii>"),
    ('93.184.216.34 - - [10/Oct/2000:13:55:36] "GET /"', '<ip-pii> - - [10/Oct/2000:13:55:36] "GET /"'),
    ("адрес 93.184.216.34", "адрес <ip-pii>"),
    ("地址：93.184.216.34。", "地址：<ip-pii>。"),
    ("주소 93.184.216.34", "주소 <ip-pii>"),
    ("عنوان 93.184.216.34", "عنوان <ip-pii>"),
    ("dirección 93.184.216.34", "dirección <ip-pii>"),
    ("2606:4700:4700::1111 answers", "<ip-pii> answers"),
    ("[2606:4700:4700::1111]:443", "[<ip-pii>]:443"),
    ("2606:4700:4700::/48", "<ip-pii>/48"),
    ("2001:4860:4860:0:0:0:0:8888", "<ip-pii>"),
    ("It is 2606:4700:4700::1111.", "It is <ip-pii>."),
]


@pytest.mark.parametrize(("text", "expected"), ADDRESSES)
def test_public_addresses_of_the_internet_are_found(text: str, expected: str) -> None:
    assert replaced(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "In 93.184.216.34 we trust",
        "version 8.8.8.8",
        "server version 8.8.4.4",
        "v8.8.4.4, ver. 8.8.4.4, release 8.8.4.4",
        "login Mozilla/5.0 Chrome/91.0.44.124",
        "section 8.8.4.4 and § 8.8.4.4",
        "host 192.168.1.1, 10.0.0.1, 172.16.0.1 and 127.0.0.1",
        "ping 169.254.1.1 and 0.0.0.0 and 255.255.255.255",
        "address 300.1.1.1",
        "server OID 1.3.6.1 and 1.3.6.1.4.1.311",
        "host 1.2.3 and 3.14",
        "server 08.08.08.08",
        "at 12:30:45, or 12:30:45:10",
        "std::vector, a::b::c, std::cafe::beef::abba",
        "dead::beef and face::bad::add()",
        "::1, fe80::1, fd00::1, 2001:db8::1",
        "00:1A:2B:3C:4D:5E",
        "John 3:16:17, ratio 1:2:3:4",
        "ratio 1:2:3:4:5:6:7:8",
        "EUI-64 is ab:cd:ef:01:23:45:67:89",
        "a[2::a:b] is a slice",
    ],
)
def test_versions_and_times_and_private_addresses_stay(text: str) -> None:
    assert replaced(text) == text


ACCOUNTS = [
    ("DE89 3704 0044 0532 0130 00", "<iban-pii>"),
    ("IBAN:DE89370400440532013000.", "IBAN:<iban-pii>."),
    ("GB82 WEST 1234 5698 7654 32", "<iban-pii>"),
    ("GB82WEST12345698765432", "<iban-pii>"),
    ("FR14 2004 1010 0505 0001 3M02 606", "<iban-pii>"),
    ("NO93 8601 1117 947", "<iban-pii>"),
    ("MT84 MALT 0110 0001 2345 MTLC AST0 01S", "<iban-pii>"),
    ("BE71 0961 2345 6769", "<iban-pii>"),
    ("SA03 8000 0000 6080 1016 7519", "<iban-pii>"),
    ("GB82 WEST 1234 5698 7654 32 NOW PAY", "<iban-pii> NOW PAY"),
    ("NO93 8601 1117 947 SAMT OG", "<iban-pii> SAMT OG"),
    ("BE71 0961 2345 6769 BIC GKCCBEBB", "<iban-pii> BIC GKCCBEBB"),
    ("帳號DE89370400440532013000。", "帳號<iban-pii>。"),
]


@pytest.mark.parametrize(("text", "expected"), ACCOUNTS)
def test_numbers_of_accounts_are_found(text: str, expected: str) -> None:
    assert replaced(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",
        "DE98370400440532013000",
        "GB82 WEST 1234 5698 7654 3",
        "XX89 3704 0044 0532 0130 00",
        "ADE89370400440532013000",
        "DE89370400440532013000X",
        "AB12 CDEF GHIJ KLMN OPQR 1234 5678 9012",
    ],
)
def test_accounts_with_a_wrong_checksum_stay(text: str) -> None:
    assert replaced(text) == text


CARDS = [
    ("4111 1111 1111 1111", "<card-pii>"),
    ("4111-1111-1111-1111.", "<card-pii>."),
    ("5555 5555 5555 4444 and 6011 1111 1111 1117", "<card-pii> and <card-pii>"),
    ("2223 0031 2200 3222", "<card-pii>"),
    ("3782 822463 10005", "<card-pii>"),
    ("visa 4111111111111111", "visa <card-pii>"),
    ("card number: 4111111111111111", "card number: <card-pii>"),
    ("Amex 378282246310005", "Amex <card-pii>"),
    ("Karte 4111111111111111", "Karte <card-pii>"),
    ("кредитная карта 4111111111111111", "кредитная карта <card-pii>"),
    ("信用卡4111111111111111", "信用卡<card-pii>"),
    ("cartão 4111111111111111", "cartão <card-pii>"),
    ("4111 1111 1111 1111 12/30", "<card-pii> 12/30"),
]


@pytest.mark.parametrize(("text", "expected"), CARDS)
def test_numbers_of_cards_are_found(text: str, expected: str) -> None:
    assert replaced(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "4111111111111111",
        "378282246310005",
        "visa 4111111111111112",
        "4111 1111-1111 1111",
        "1111 1111 1111 1117",
        "0000 0000 0000 0000",
        "card 4111111111111111.5",
        "card 41111111111111111",
        "card -4111111111111111",
        "the cardinality is 4012888888881881",
    ],
)
def test_numbers_that_are_no_cards_stay(text: str) -> None:
    assert replaced(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("+44\u00a020\u00a07946\u00a00958", "<phone-pii>"),
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "<iban-pii>"),
        ("4111\u00a01111\u00a01111\u00a01111", "<card-pii>"),
    ],
)
def test_spaces_that_do_not_break_part_digits_too(text: str, expected: str) -> None:
    assert replaced(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "$+442079460958$ and \\(ana@example.com\\)",
        "$$4111 1111 1111 1111$$",
        "`ana@example.com` and ``host 93.184.216.34``",
        "```\nssh root@93.184.216.34 # ana@example.com\n```",
        ">>> ring('+44 20 7946 0958')\n",
        "\\begin{align}\n+44 20 7946 0958\n\\end{align}",
    ],
)
def test_nothing_in_mathematics_and_code_is_replaced(text: str) -> None:
    assert replaced(text) == text


def test_what_is_beside_mathematics_and_in_tables_is_replaced() -> None:
    assert replaced("$x$ana@example.com`y`") == "$x$<email-pii>`y`"
    assert replaced("| ana@example.com |\n| bob@example.com |") == "| <email-pii> |\n| <email-pii> |"


@pytest.mark.parametrize(
    "text",
    [
        "E = mc^2, a_1 + b_2 = 12345678901234567890, 2^{64} = 18446744073709551616",
        "doi:10.1109/5.771073, https://doi.org/10.1000/182",
        "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 0378-5955",
        "arXiv:2112.11446v2, PMID 12345678, CAS 7732-18-5",
        "2024-01-02T03:04:05+0530, 11/10/2020, 1.1.1970, 12.30-14.45",
        "1.0.0-rc.1+build.5, numpy>=2.1.0, gcc 4.8.5-44",
        "d41d8cd98f00b204e9800998ecf8427e, 00112233-4455-6677-8899-aabbccddeeff",
        "52.520008, 13.404954; +40.7128-074.0060/; lat +52.5200 lon +13.4050",
        "1,234,567,890,123,456; 1 234 567 890 123; 6.02214076e23; 3.14159265358979",
        "IMEI 490154203237518, serial 4000123456789017",
        "pages 212-736, 5000; RFC 2822; 0x7fffffffffffffff; 1010101010101010",
        "₹1,00,000 and €1.000.000,00 and $1,000,000.00",
    ],
)
def test_numbers_of_science_stay(text: str) -> None:
    assert replace(text) == (text, Counter())


MIXED = (
    "ana@example.com or bob@example.org, +44 20 7946 0958, host 93.184.216.34, DE89 3704 0044 0532 0130 00, "
    "4111 1111 1111 1111"
)
FOUND = Counter({"email": 2, "phone": 1, "ip": 1, "iban": 1, "card": 1})


def test_what_is_found_is_counted_by_kind() -> None:
    text, counts = replace(MIXED)
    assert text == "<email-pii> or <email-pii>, <phone-pii>, host <ip-pii>, <iban-pii>, <card-pii>"
    assert counts == FOUND


@pytest.mark.parametrize("kind", ALL)
def test_only_the_kinds_that_are_asked_for_are_replaced(kind: str) -> None:
    text, counts = replace(MIXED, kinds=(kind,))
    assert counts == {kind: FOUND[kind]}
    assert text.count("-pii>") == text.count(f"<{kind}-pii>") == FOUND[kind]
    assert replace(MIXED, kinds=()) == (MIXED, Counter())


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "Please write to {} today."),
        ("ru", "Напишите, пожалуйста, {} сегодня."),
        ("el", "Παρακαλώ γράψτε {} σήμερα."),
        ("ar", "يرجى الكتابة إلى {} اليوم."),
        ("he", "נא לכתוב אל {} היום."),
        ("hi", "कृपया आज {} पर लिखें।"),
        ("ta", "தயவுசெய்து {} எழுதவும்."),
        ("th", "กรุณาเขียนถึง {} วันนี้"),
        ("zh", "今天请写信给 {} 谢谢。"),
        ("ja", "今日 {} まで。"),
        ("ko", "오늘 {} 로 써 주세요."),
        ("am", "እባክዎ ዛሬ {} ይጻፉ።"),
    ],
)
def test_what_is_planted_in_sentences_of_many_scripts_is_found(language: str, sentence: str) -> None:
    text = sentence.format(MIXED)
    expected = sentence.format("<email-pii> or <email-pii>, <phone-pii>, host <ip-pii>, <iban-pii>, <card-pii>")
    assert replace(text, language) == (expected, FOUND)


def test_replacing_twice_changes_nothing_more() -> None:
    rows = [*EMAILS, *((text, language) for text, language, _ in PHONES), *ADDRESSES, *ACCOUNTS, *CARDS]
    for text, _ in rows:
        once = replaced(text)
        assert replace(once) == (once, Counter()), text


@pytest.mark.parametrize(
    "text", ["", " ", "\ud800 ana@example.com \udfff", "@" * 1000, "+" * 1000, "1" * 1000, "::" * 500]
)
def test_odd_texts_are_read(text: str) -> None:
    assert replaced(text) == text.replace("ana@example.com", "<email-pii>")


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111 4111 1111 1111 1111",
        "0012 4111 1111 1111 1111",
        "x = +4.798963000 and +49.58 23.31 4.5",
        "-7.313 +6.949000 +5.275 8.25",
        "the cell line 415-867-5309",
        "scores = q@k.transpose(-2, -1) + x@self.weight",
        "git@github.com:user/repo.git and git+ssh://git@github.com/user",
    ],
)
def test_tables_of_numbers_and_code_hold_no_personal_data(text: str) -> None:
    assert replaced(text, "en") == text
