"""Tokenizers: the export gives SentencePiece's ids, and learning is deterministic and explains itself."""

import re
from pathlib import Path
from typing import Any

import pytest
import transformers

from configs.base import Artifact, UserError
from configs.data import TrainTokenizerConfig
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.tokenizer.certificate_texts import ADVERSARIAL
from data_prep.tokenizer.sentencepiece_model import EOS_ID, PAD_ID, UNK_ID, encode, learn, load
from data_prep.tokenizer.stage import MODEL, check_certificate, train_tokenizer
from tests.data_prep.corpora import INLINE, clean_config, cleaned, eld_sentences, source, write_lines

CONFIG = TrainTokenizerConfig(vocab_size=4000, character_coverage=0.995, temperature=2)
SENTENCES = eld_sentences(40)
TRICKY = (
    *ADVERSARIAL,
    "<pad></s><unk> a</s>b",
    " ".join(str(n) for n in range(0, 3000, 37)),
    "\u2581\u2581 \u2581 ",
    "\n\n\n\t\t  x  \n",
    "\U0010ffff\ud7ff\ue000",
    "".join(map(chr, range(1, 400))),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact[CleanCorpus]:
    root = tmp_path_factory.mktemp("corpus")
    path = write_lines(root / "eld.jsonl", SENTENCES)
    return cleaned(root / "out", clean_config(source("eld", path), shard_bytes=100_000))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, corpus: Artifact[CleanCorpus]) -> Artifact[TrainedTokenizer]:
    return train(tmp_path_factory.mktemp("tokenizer"), corpus)


def train(out: Path, corpus: Artifact[CleanCorpus], **changes: Any) -> Artifact[TrainedTokenizer]:
    config = CONFIG.model_copy(update=changes)
    return Artifact(out, train_tokenizer(config, corpus=corpus, out=out, executor=INLINE))


def exported(tokenizer: Artifact[TrainedTokenizer]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tokenizer.dir / "hugging_face")


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_exported_tokenizer_gives_sentencepiece_ids_in_every_language(tokenizer: Artifact[TrainedTokenizer]) -> None:
    texts = [text for _, text in SENTENCES]
    assert len({language for language, _ in SENTENCES}) == 60
    assert exported(tokenizer)(texts)["input_ids"] == encode(load(tokenizer.dir / MODEL), texts)


@pytest.mark.parametrize("text", TRICKY)
def test_exported_tokenizer_gives_sentencepiece_ids_on_tricky_text(
    tokenizer: Artifact[TrainedTokenizer], text: str
) -> None:
    (ids,) = encode(load(tokenizer.dir / MODEL), [text])
    assert exported(tokenizer)(text)["input_ids"] == ids
    assert not {EOS_ID, PAD_ID, UNK_ID} & set(ids), "text never spells a special piece"


def test_ids_decode_to_the_text(tokenizer: Artifact[TrainedTokenizer]) -> None:
    model, fast = load(tokenizer.dir / MODEL), exported(tokenizer)
    for text in [*TRICKY, *(text for _, text in SENTENCES[::7])]:
        (ids,) = encode(model, [text])
        expected = text.replace("\u2581", " ")  # the one character that both write for a space
        assert model.decode(ids) == expected
        assert fast.decode(ids) == expected


def test_digits_are_pieces_of_their_own(tokenizer: Artifact[TrainedTokenizer]) -> None:
    model = load(tokenizer.dir / MODEL)
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size()) if not model.is_byte(i)]
    digits = [piece for piece in pieces if any(character.isdigit() for character in piece)]
    assert set("0123456789") <= set(digits)
    assert [piece for piece in digits if len(piece) > 1] == []


def test_special_pieces_have_the_ids_of_the_manifest(tokenizer: Artifact[TrainedTokenizer]) -> None:
    fast, made = exported(tokenizer), tokenizer.manifest
    assert (fast.eos_token_id, fast.pad_token_id, len(fast)) == (made.eos_id, made.pad_id, made.vocab_size)
    assert load(tokenizer.dir / MODEL).get_piece_size() == made.vocab_size == CONFIG.vocab_size
    assert made.certificate.num_texts > len(ADVERSARIAL)
    assert made.certificate.num_languages == 60


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


@pytest.mark.parametrize(("vocab_size", "says", "past"), [(1_000_000, "at most", 1), (300, "at least", -1)])
def test_vocabulary_that_does_not_fit_the_text_names_the_limit(vocab_size: int, says: str, past: int) -> None:
    texts = [text for _, text in SENTENCES[:400]]
    with pytest.raises(UserError, match=f"vocab_size is {vocab_size:,}.* {says} ") as caught:
        learn(texts, CONFIG.model_copy(update={"vocab_size": vocab_size}))
    assert "\n" not in str(caught.value)
    limit = int(re.findall(rf"{says} ([\d,]+)", str(caught.value))[0].replace(",", ""))
    assert learn(texts, CONFIG.model_copy(update={"vocab_size": limit}))
    with pytest.raises(UserError):
        learn(texts, CONFIG.model_copy(update={"vocab_size": limit + past}))


def test_long_lines_are_cut_not_left_out() -> None:
    long = "".join(chr(0x4E00 + i % 50) for i in range(120_000))
    model = learn([long], TrainTokenizerConfig(vocab_size=320, character_coverage=1))
    assert all(chr(0x4E00 + i).encode() in model for i in range(50))


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
