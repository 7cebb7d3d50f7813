"""Parallel sentences: which file is of which language, and what is refused."""

from pathlib import Path

import pytest

from configs.base import UserError
from eval.parallel import parallel_files, read_sentences


def write(directory: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (directory / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return directory


def test_files_are_found_by_the_language_in_their_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        swh_Latn__devtest="habari\nasante\n",
        eng_Latn__devtest="news \nthanks\n",
        README="x",
        sr_Latn__txt="a",
    )
    assert {label: path.name for label, path in parallel_files(tmp_path).items()} == {
        "en": "eng_Latn.devtest",
        "sr-Latn": "sr_Latn.txt",
        "sw": "swh_Latn.devtest",
    }
    assert read_sentences(tmp_path, ("en", "sw", "de")) == {"en": ("news", "thanks"), "sw": ("habari", "asante")}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({"README": "x"}, "has no file that a language is the name of"),
        ({"en__txt": "a\nb\n", "sw__txt": "a\n"}, "has 1 sentences in sw and 2 in en"),
        ({"en__txt": "a\n\nb\n"}, r"en\.txt:2 is empty"),
        ({"en__txt": ""}, r"en\.txt is empty"),
        ({"en__txt": "a", "eng_Latn__txt": "a"}, "are both of en"),
    ],
)
def test_what_is_not_parallel_is_refused(tmp_path: Path, texts: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_sentences(write(tmp_path, **texts), ("en", "sw"))


def test_bytes_that_are_no_text_and_no_directory(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"en\.txt is not UTF-8"):
        read_sentences(tmp_path, ("en",))
    with pytest.raises(UserError, match="is no directory"):
        parallel_files(tmp_path / "nowhere")
