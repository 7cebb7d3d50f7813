"""Text that has to fit: the one way to cut what is too long to be shown whole."""


def shorten(text: str, max_characters: int, *, ellipsis: str = "…") -> str:
    """Return the text; one of more than `max_characters` is cut, and ends with the ellipsis, which counts too."""
    return text if len(text) <= max_characters else text[: max_characters - len(ellipsis)] + ellipsis


def one_line(value: object, *, max_characters: int = 200) -> str:
    """Return what `str` makes of a value, such as an exception, on one line: each run of white space is one space.

    What is beyond `max_characters` is cut off.
    """
    return shorten(" ".join(str(value).split()), max_characters, ellipsis="")
