"""What the model writes, on the page: a few samples of each language, cut so that the page stays small."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.report.generations import Generation, writing_parts


def put(scores: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write samples: language, prompt, text."""
    path = scores / "samples" / "generations.jsonl"
    path.parent.mkdir(exist_ok=True)
    known = {"source": "web", "document": "0", "contains_text": True}
    lines = (known | {"language": language, "prompt": prompt, "text": text} for language, prompt, text in rows)
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")


def test_there_are_two_samples_a_language_by_label(tmp_path: Path):
    assert writing_parts(tmp_path) is None
    put(tmp_path, [("sw", "a", "b"), ("am", "c", "d"), *[("sw", str(n), "x") for n in range(5)]])
    parts = writing_parts(tmp_path) or []
    assert [(part.language, [one.prompt for one in part.samples]) for part in parts] == [
        ("am", ["c"]),
        ("sw", ["a", "0"]),
    ]


def test_an_empty_file_is_no_part(tmp_path: Path):
    put(tmp_path, [])
    assert writing_parts(tmp_path) is None


def test_a_prompt_keeps_its_end_and_a_text_its_beginning(tmp_path: Path):
    put(tmp_path, [("sw", "x" * 500 + " the end", "so begins " + "y" * 900)])
    (part,) = writing_parts(tmp_path) or []
    (one,) = part.samples
    assert one.prompt.startswith("…x") and one.prompt.endswith(" the end") and len(one.prompt) == 150
    assert one.text.startswith("so begins ") and one.text.endswith("y…") and len(one.text) == 300


def test_many_languages_are_cut_shorter_and_none_is_left_out(tmp_path: Path):
    put(tmp_path, [(f"l{n:03}", "ሀ" * 900, "ለ" * 900) for n in range(400) for _ in range(2)])
    parts = writing_parts(tmp_path) or []
    assert len(parts) == 400 and all(len(part.samples) == 2 for part in parts)
    shown = sum(len((one.prompt + one.text).encode()) for part in parts for one in part.samples)
    assert 100_000 < shown < 350_000
    put(tmp_path, [("sw", "a", "b")])
    assert [part.samples for part in writing_parts(tmp_path) or []] == [[Generation("a", "b")]]
