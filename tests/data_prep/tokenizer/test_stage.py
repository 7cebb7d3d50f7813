"""Training a tokenizer is deterministic, restartable, drawn by language, and certified."""

import re
from pathlib import Path

import pytest

from configs.base import Artifact, UserError
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.tokenizer.stage import MODEL, check_certificate
from tests.data_prep.tokenizer.toy_tokenizer import train


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_learning_twice_gives_equal_bytes(
    tmp_path: Path, corpus: Artifact[CleanCorpus], tokenizer: Artifact[TrainedTokenizer]
) -> None:
    again = train(tmp_path, corpus)
    assert again.manifest == tokenizer.manifest
    assert files(again.dir) == files(tokenizer.dir)
    assert {name.partition("/")[0] for name in files(again.dir)} == {MODEL, "hugging_face"}


def test_learning_goes_on_where_a_killed_one_left_files(
    tmp_path: Path, corpus: Artifact[CleanCorpus], tokenizer: Artifact[TrainedTokenizer]
) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / ".000000.jsonl.zst.0a1b2c3d.partial").write_bytes(b"half")
    (tmp_path / "sample" / "000001.jsonl.zst").write_bytes(b"old")
    (tmp_path / MODEL).write_bytes(b"old")
    assert train(tmp_path, corpus).manifest == tokenizer.manifest
    assert files(tmp_path) == files(tokenizer.dir)


def test_sample_is_drawn_by_language_within_the_budget(tmp_path: Path, corpus: Artifact[CleanCorpus]) -> None:
    total = sum(count.kept_bytes for count in corpus.manifest.counts)
    made = train(tmp_path, corpus, sample_bytes=total // 3, temperature=1.0, vocab_size=3000, seed=-5).manifest
    assert sum(made.sample_bytes.values()) == pytest.approx(total / 3, rel=0.1)
    assert len(made.sample_bytes) == 60


def test_a_sample_without_text_is_one_line(tmp_path: Path, corpus: Artifact[CleanCorpus]) -> None:
    with pytest.raises(UserError, match="raise sample_bytes"):
        train(tmp_path, corpus, sample_bytes=1)


@pytest.mark.parametrize("name", [MODEL, "hugging_face/tokenizer.json"])
def test_certificate_refuses_a_changed_file(tmp_path: Path, tokenizer: Artifact[TrainedTokenizer], name: str) -> None:
    for file, data in files(tokenizer.dir).items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(data)
    copy = Artifact(tmp_path, tokenizer.manifest)
    check_certificate(copy)
    changed = bytearray((tmp_path / name).read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / name).write_bytes(changed)
    with pytest.raises(UserError, match=re.escape(name)):
        check_certificate(copy)
