import pytest

from configs.text import one_line, shorten


@pytest.mark.parametrize(("text", "shown"), [("", ""), ("12345", "12345"), ("123456", "1234…")])
def test_a_text_that_is_too_long_ends_with_an_ellipsis_within_the_limit(text, shown):
    assert shorten(text, 5) == shown


def test_the_ellipsis_counts_whatever_it_is():
    assert shorten("123456789", 8, ellipsis="...") == "12345..."
    assert shorten("123456789", 8, ellipsis="") == "12345678"


def test_an_exceptions_text_is_one_line_of_limited_length():
    assert one_line(OSError("a \n b\tc")) == "a b c"
    assert one_line("x" * 300) == "x" * 200
    assert one_line("a  b", max_characters=2) == "a "
