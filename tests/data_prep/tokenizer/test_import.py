"""A foreign tokenizer of each kind is taken over: its ids, special pieces, rows; what is no tokenizer is not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from cluster.host.files import sha256_of
from configs.base import Artifact, UserError
from configs.data.stages import ImportTokenizerConfig, TokenizeConfig
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.tokenizer.certificate_texts import ADVERSARIAL
from data_prep.tokenizer.encoder import open_encoder
from data_prep.tokenizer.foreign_files import observe_tokenizer
from data_prep.tokenizer.import_stage import check_tokenizer, import_tokenizer
from data_prep.tokenizer.sentencepiece_model import encode_texts, load_sentencepiece
from data_prep.tokenizer.stage import check_certificate
from data_prep.tokens.megatron_shards import document_lengths, open_tokens
from data_prep.tokens.stage import tokenize
from tests.data_prep.corpora import INLINE, clean_config, cleaned, held_out, kept, source, write_lines
from tests.data_prep.tokenizer.foreign_tokenizers import (
    gemma_model,
    gpt_neox_like,
    llama_like,
    llama_model,
    qwen_like,
    tiktoken_like,
    train_model,
    unigram,
)
from tests.data_prep.tokenizer.toy_tokenizer import SENTENCES
from training.init.vocabulary_rows import match_rows

TEXTS = [*ADVERSARIAL, *(text for _, text in SENTENCES[::20])]
SPECIAL = ["<|endoftext|>", "<|im_end|>", "<s>", "</s>", "<pad>", "<|end_of_text|>", "<start_of_turn>"]
SPELLED = [text for piece in SPECIAL for text in (piece, f"a {piece} b", f"x{piece}y", f"{piece}{piece}")]


def model_file(name: str, **settings: Any) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        directory.mkdir(parents=True)
        (directory / name).write_bytes(train_model(**settings) if settings else llama_model())
        return directory / name

    return write


KINDS: dict[str, Callable[[Path], Path]] = {
    "qwen": qwen_like,
    "llama": llama_like,
    "tiktoken": tiktoken_like,
    "unigram": unigram,
    "gpt_neox": gpt_neox_like,
    "gemma.model": gemma_model,
    "llama.model": model_file("llama.model"),
    "unigram.model": model_file("m.model", model_type="unigram", vocab_size=600),
    "unigram with bytes.model": model_file(
        "m.model", model_type="unigram", vocab_size=900, byte_fallback=True, normalization_rule_name="identity"
    ),
}
IDS = {  # end of text, begin of text, padding, rows
    "qwen": (600, None, None, 640),
    "llama": (2, 1, None, 700),
    "tiktoken": (501, 500, None, 503),
    "unigram": (1, None, 0, 400),
    "gpt_neox": (0, None, None, 403),
    "gemma.model": (2, 1, 3, 700),
    "llama.model": (2, None, None, 700),
    "unigram.model": (2, None, None, 600),
    "unigram with bytes.model": (2, None, None, 900),
}


def imported(path: Path, out: Path, corpus: Artifact[CleanCorpus] | None = None, **config: Any) -> Any:
    given = ImportTokenizerConfig(path=str(path), **config)
    return Artifact(out, import_tokenizer(given, corpus=(corpus,) if corpus else (), out=out, executor=INLINE))


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    root = tmp_path_factory.mktemp("foreign")
    path = KINDS[request.param](root / "given")
    return request.param, path, imported(path, root / "out")


def given_ids(path: Path, texts: list[str]) -> list[list[int]]:
    """The ids that the given files have for texts, by the library that they are of."""
    file = path / "tokenizer.json"
    if not file.is_file():
        return encode_texts(load_sentencepiece(path if path.is_file() else path / "tokenizer.model"), texts)
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def test_ids_of_text_are_those_of_the_given_files(made: tuple[str, Path, Artifact[TrainedTokenizer]]) -> None:
    name, path, tokenizer = made
    texts = TEXTS if name != "unigram" else [text for text in TEXTS if "</s>" not in text]
    expected = given_ids(path, texts)
    assert open_encoder(tokenizer.dir)(texts) == expected
    auto = AutoTokenizer.from_pretrained(tokenizer.dir / "hugging_face", split_special_tokens=True)
    assert auto(texts, add_special_tokens=False)["input_ids"] == expected


def test_text_never_becomes_a_special_piece(made: tuple[str, Path, Artifact[TrainedTokenizer]]) -> None:
    _, _, tokenizer = made
    auto = AutoTokenizer.from_pretrained(tokenizer.dir / "hugging_face", split_special_tokens=True)
    special = {number for number in auto.all_special_ids if auto.convert_ids_to_tokens(number) != "<unk>"}
    assert special
    ids = open_encoder(tokenizer.dir)(SPELLED)
    assert auto(SPELLED, add_special_tokens=False)["input_ids"] == ids
    assert not special & {number for one in ids for number in one}


def test_special_pieces_and_rows_are_those_of_the_given_files(
    made: tuple[str, Path, Artifact[TrainedTokenizer]],
) -> None:
    name, path, tokenizer = made
    manifest = tokenizer.manifest
    assert (manifest.eos_id, manifest.bos_id, manifest.pad_id, manifest.vocab_size) == IDS[name]
    assert manifest.certificate.num_texts > len(ADVERSARIAL)
    check_certificate(tokenizer)
    auto = AutoTokenizer.from_pretrained(tokenizer.dir / "hugging_face")
    assert auto.eos_token_id == manifest.eos_id
    text, begin = auto("a", add_special_tokens=False)["input_ids"], manifest.bos_id
    assert auto("a")["input_ids"] == ([] if begin is None else [begin]) + text
    if path.is_dir() and (path / "tokenizer.json").is_file():
        rows = match_rows(path, tokenizer.dir / "hugging_face")
        assert rows.sources == [[i] for i in range(manifest.num_pieces or 0)]


def test_added_pieces_that_are_not_special_are_found_in_text(tmp_path: Path) -> None:
    tokenizer = imported(qwen_like(tmp_path / "given"), tmp_path / "out")
    assert 603 in open_encoder(tokenizer.dir)(["<think>no"])[0], "as the given tokenizer has it"


def test_a_cut_is_where_a_model_without_the_piece_has_the_same_ids(tmp_path: Path) -> None:
    path = KINDS["unigram.model"](tmp_path / "given")
    tokenizer = imported(path, tmp_path / "out")
    file = Tokenizer.from_file(str(tokenizer.dir / "hugging_face" / "tokenizer.json"))
    file.encode_special_tokens = True
    texts = ["a </s> b", "<s><unk></s>"]
    assert [file.encode(text).ids for text in texts] == given_ids(path, texts)


def test_documents_begin_and_end_with_the_pieces_of_the_tokenizer(tmp_path: Path) -> None:
    rows = [("en", f"number {i} </s> <s>") for i in range(12)]
    config = clean_config(source("own", write_lines(tmp_path / "own.jsonl", rows)), held_out={"share": 0.3})
    corpus = cleaned(tmp_path / "corpus", config)
    tokenizer = imported(llama_like(tmp_path / "given"), tmp_path / "tokenizer", corpus)
    certificate = tokenizer.manifest.certificate
    assert certificate.num_languages == 1
    assert certificate.num_texts == len(ADVERSARIAL) + len(held_out(corpus)) + 2 * 3
    tokens = tokenize(TokenizeConfig(), corpus=corpus, tokenizer=tokenizer, out=tmp_path / "tokens", executor=INLINE)
    assert (tokens.vocab_size, tokens.eos_id) == (700, 2)
    (shard,) = tokens.shards
    prefix = tmp_path / "tokens" / shard.path
    written = [ids.tolist() for ids in np.split(open_tokens(prefix), document_lengths(prefix).cumsum()[:-1])]
    texts = [document.text for document in kept(corpus)]
    assert written == [[1, *ids, 2] for ids in given_ids(tmp_path / "given", texts)]
    assert shard.segments[0].num_tokens == sum(map(len, written))


def test_a_corpus_without_held_out_documents_is_certified_on_others(tmp_path: Path) -> None:
    rows = [("en", f"number {i}") for i in range(12)] + [("sw", f"namba {i}") for i in range(12)]
    config = clean_config(source("own", write_lines(tmp_path / "own.jsonl", rows)), held_out={"share": 0})
    corpus = cleaned(tmp_path / "corpus", config)
    made = imported(llama_like(tmp_path / "given"), tmp_path / "tokenizer", corpus).manifest
    assert made.certificate.num_languages == 2
    assert made.certificate.num_texts == len(ADVERSARIAL) + 24 + 2 * 3


def test_pieces_that_the_recipe_names_begin_and_end_a_text(tmp_path: Path) -> None:
    path = qwen_like(tmp_path / "given")
    named = {"end_of_text": "<|im_end|>", "begin_of_text": "<|im_start|>"}
    made = imported(path, tmp_path / "out", **named).manifest
    assert (made.eos_id, made.bos_id) == (602, 601)
    auto = AutoTokenizer.from_pretrained(tmp_path / "out" / "hugging_face")
    assert (auto.eos_token, auto.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert auto("a")["input_ids"][0] == 601
    rows = match_rows(path, tmp_path / "out" / "hugging_face")
    assert rows.sources == [[i] for i in range(604)], "another end of text is the same vocabulary"


def test_added_pieces_of_files_beside_the_tokenizer_are_taken_over(tmp_path: Path) -> None:
    path = llama_like(tmp_path / "given")
    settings = json.loads((path / "tokenizer_config.json").read_text())
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    settings["added_tokens_decoder"] = {"700": {"content": "<|user|>"} | flags}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "added_tokens.json").write_text('{"<more>": 701}')
    made = imported(path, tmp_path / "out")
    assert made.manifest.vocab_size == 702
    assert 700 not in open_encoder(made.dir)(["a <|user|> b"])[0]
    assert 701 in open_encoder(made.dir)(["a <more> b"])[0]


def test_pieces_that_are_added_to_a_sentencepiece_model_are_special(tmp_path: Path) -> None:
    path = gemma_model(tmp_path / "given")
    (path / "added_tokens.json").write_text('{"<user>": 700}')
    made = imported(path, tmp_path / "out")
    assert made.manifest.vocab_size == 701
    auto = AutoTokenizer.from_pretrained(made.dir / "hugging_face")
    assert auto("a <user>")["input_ids"][-1] == 700
    assert 700 not in open_encoder(made.dir)(["a <user>"])[0]


@pytest.mark.parametrize(
    ("settings", "bos"), [({"add_bos_token": False}, None), ({"add_bos_token": True}, 1), ({"bos_token": None}, 1)]
)
def test_what_the_settings_say_of_the_begin_counts(tmp_path: Path, settings: dict[str, Any], bos: int | None) -> None:
    path = llama_like(tmp_path / "given")
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    made = imported(path, tmp_path / "out").manifest
    assert made.bos_id == bos
    ids = AutoTokenizer.from_pretrained(tmp_path / "out" / "hugging_face")("the sea")["input_ids"]
    assert (ids[0] == 1) == (bos == 1)


def test_the_end_of_text_is_found_in_each_file_that_may_name_it(tmp_path: Path) -> None:
    path = qwen_like(tmp_path / "given")
    (path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no file of the tokenizer says which piece ends a text; name it as end_of"):
        imported(path, tmp_path / "out")
    (path / "config.json").write_text('{"eos_token_id": [602, 600]}')
    assert imported(path, tmp_path / "1").manifest.eos_id == 602
    (path / "generation_config.json").write_text('{"eos_token_id": 601}')
    assert imported(path, tmp_path / "2").manifest.eos_id == 601
    (path / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    assert imported(path, tmp_path / "3").manifest.eos_id == 600


def test_a_piece_of_text_cannot_end_a_text(tmp_path: Path) -> None:
    path = llama_like(tmp_path / "given")
    for piece in ("<0x01>", "\u2581a"):
        with pytest.raises(UserError, match=r"text gives no special piece, .* does not; name no ordinary piece"):
            check_tokenizer(ImportTokenizerConfig(path=str(path), end_of_text=piece))


def test_what_the_files_hold_is_observed(tmp_path: Path) -> None:
    path = qwen_like(tmp_path / "given")
    config = ImportTokenizerConfig(path=str(path))
    before = observe_tokenizer(config, sha256_of)
    assert before == {
        "files": {name: sha256_of(path / name) for name in ("tokenizer.json", "tokenizer_config.json")},
        "end_of_text": "<|endoftext|>",
        "rows": 640,
    }
    (path / "config.json").write_text('{"vocab_size": 640, "dtype": "float32"}')
    assert observe_tokenizer(config, sha256_of) == before, "of the model's settings only what is used"
    (path / "config.json").write_text('{"text_config": {"vocab_size": 700}}')
    assert observe_tokenizer(config, sha256_of) != before


def damaged(directory: Path, **content: Any) -> Path:
    path = llama_like(directory)
    file = path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    return path


FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
REFUSALS: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "nothing": (lambda path: path, {}, "there is no file or directory"),
    "pickle": (model_file("vocab.bin"), {}, "is neither a tokenizer.json nor a SentencePiece model"),
    "no model": (lambda path: write_file(path / "t.model", "no model"), {}, "is no SentencePiece model"),
    "empty": (lambda path: write_file(path / "vocab.txt", "a").parent, {}, "holds neither tokenizer.json nor"),
    "no piece": (llama_like, {"end_of_text": "</S>"}, "has no piece '</S>'; did you mean '</s>'"),
    "file alone": (
        lambda path: llama_like(path) / "tokenizer.json",
        {},
        "name it as end_of_text, or give the directory",
    ),
    "no vocabulary": (lambda path: damaged(path, model={}), {}, "holds no vocabulary of a tokenizer"),
    "gap": (
        lambda path: damaged(path, added_tokens=[{"id": 9000, "content": "<x>", "special": True, **FLAGS}]),
        {},
        "piece '<x>' has id 9000 there, and the tokenizers library gives it 700",
    ),
    "fairseq": (model_file("sentencepiece.bpe.model", vocab_size=300), {}, "are not those of that file"),
    "word": (model_file("m.model", model_type="word", vocab_size=300), {}, "is neither BPE nor Unigram"),
}


def write_file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_imported_is_one_sentence(tmp_path: Path, name: str) -> None:
    make, config, says = REFUSALS[name]
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        imported(make(tmp_path / "given"), tmp_path / "out", **config)
    assert "\n" not in str(caught.value)


def test_special_pieces_that_the_model_finds_in_text_are_refused_before_any_text_is_cleaned(tmp_path: Path) -> None:
    """User-defined pieces, as Gemma's model has some, are found in every text that spells them."""
    (tmp_path / "tokenizer.model").write_bytes(train_model(vocab_size=300, user_defined_symbols=["<turn>"]))
    settings = {"eos_token": "</s>", "additional_special_tokens": ["<turn>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"special piece is among the ids .*'<turn>'.*tokenizer\.json"):
        check_tokenizer(ImportTokenizerConfig(path=str(tmp_path)))
