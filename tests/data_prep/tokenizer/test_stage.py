"""Training a tokenizer is deterministic, restartable, drawn by language, and certified."""

import json
import re
from pathlib import Path

import pytest

from configs.base import Artifact, UserError
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.tokenizer.sentencepiece_model import load_sentencepiece
from data_prep.tokenizer.stage import MODEL, check_certificate
from tests.data_prep.corpora import clean_config, cleaned, sentences, write_lines
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


def corpus_of(directory: Path, texts: list[str]) -> Artifact[CleanCorpus]:
    lines = [json.dumps({"text": text, "id": "same"}, ensure_ascii=False) for text in texts]
    fields = {"kind": "json_lines", "name": "web", "language": "zh", "id_field": "id"}
    path = write_lines(directory / "a.jsonl", lines)
    return cleaned(directory / "corpus", clean_config({**fields, "paths": [path]}))


def pieces_of(tokenizer: Artifact[TrainedTokenizer], text: str) -> tuple[list[str], str]:
    processor = load_sentencepiece(tokenizer.dir / MODEL)
    ids = processor.encode(text)
    return [processor.id_to_piece(i) for i in ids], processor.decode(ids)


def test_documents_of_one_id_are_drawn_one_by_one(tmp_path: Path) -> None:
    made = train(tmp_path, corpus_of(tmp_path, sentences(200)), sample_bytes=3000, vocab_size=300)
    assert 1500 < sum(made.manifest.sample_bytes.values()) < 5000


def test_a_space_that_is_rare_has_a_piece_and_is_decoded_as_a_space(tmp_path: Path) -> None:
    """Written as bytes, it would be decoded as U+2581."""
    texts = [f"今天天气很好我们去公园散步{i}然后回家吃饭" for i in range(300)] + ["一个 空格"]
    made = train(tmp_path, corpus_of(tmp_path, texts), vocab_size=320, character_coverage=0.98)
    pieces, decoded = pieces_of(made, "今天 天气")
    assert "\u2581" in pieces and decoded == "今天 天气"
    assert made.manifest.certificate.changed_characters == ("U+2581",) and made.manifest.certificate.notes == ()
    assert "texts are not decoded to themselves: U+2581" in made.manifest.summary()


def test_lines_with_the_boundary_character_are_learned_from(tmp_path: Path) -> None:
    """SentencePiece leaves them out without a word."""
    texts = [f"progress \u2585\u2585\u2585 zebra quagga {i}" for i in range(300)]
    made = train(tmp_path, corpus_of(tmp_path, texts), vocab_size=320)
    pieces, decoded = pieces_of(made, "zebra \u2585 quagga")
    assert (
        "\u2581quagga" in pieces
        and "zebra" in "".join(pieces).replace("\u2581", " ")
        and decoded == "zebra \u2585 quagga"
    )
