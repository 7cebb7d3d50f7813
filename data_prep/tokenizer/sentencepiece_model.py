"""The door to tokenizer libraries: SentencePiece to learn and to encode, tokenizers for the Hugging Face export.

The model is BPE with byte fallback, split digits and the identity normaliser (cleaning has done NFC): the one
kind of SentencePiece model that other implementations reproduce id for id.
"""

import json
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentencepiece

from configs.base import UserError
from configs.data import TrainTokenizerConfig
from data_prep.tokenizer.pieces import Pieces, byte_level, read_settings, special_pieces, without_prefix

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNK, EOS, PAD = "<unk>", "</s>", "<pad>"
UNK_ID, EOS_ID, PAD_ID = 0, 1, 2
SPACE = "\u2581"
"""SentencePiece writes a space as this character."""

MAX_LINE_BYTES = 100_000
"""Longer lines are cut for learning; SentencePiece leaves out lines beyond its limit without a word."""


def learn(lines: Iterable[str], config: TrainTokenizerConfig) -> bytes:
    """A SentencePiece model, deterministic in the lines and their order. Raises UserError on a bad size or no text."""
    model = BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_pieces_of(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=MAX_LINE_BYTES + 4,
            unk_id=UNK_ID,
            eos_id=EOS_ID,
            pad_id=PAD_ID,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, config) from None
    return model.getvalue()


def load(model: Path) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer of a SentencePiece model file."""
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def encode(tokenizer: sentencepiece.SentencePieceProcessor, texts: list[str]) -> list[list[int]]:
    """Ids of each text, without special pieces."""
    ids: list[list[int]] = tokenizer.encode(texts, num_threads=1)
    return ids


def export_hugging_face(model: bytes, directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer loads. Ids equal SentencePiece's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
    bpe = models.BPE(vocab=pieces, merges=_merges(processor, pieces), unk_token=UNK, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in (UNK, EOS, PAD)])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "unk_token": UNK,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # text that spells a special piece is text, as in SentencePiece
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def differing(model: Path, hugging_face: Path, texts: list[str]) -> list[str]:
    """The texts on which SentencePiece and the exported tokenizer.json give different ids."""
    from tokenizers import Tokenizer

    exported = Tokenizer.from_file(str(hugging_face / "tokenizer.json"))
    exported.encode_special_tokens = True
    reference = encode(load(model), texts)
    return [text for text, ids in zip(texts, reference, strict=True) if exported.encode(text).ids != ids]


def read_pieces(directory: Path) -> Pieces:
    """The pieces of the tokenizer.json in `directory`, of any kind that the tokenizers library reads."""
    tokenizer, settings = _read(directory)
    decoder = json.dumps(settings.get("decoder"))
    roles, added = _roles(directory, tokenizer, settings), tokenizer.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special} | set(roles.values())
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
    texts: list[bytes | None] = [None] * (max(pieces) + 1)
    byte_ids: dict[int, int] = {}
    for number in pieces.keys() - special:
        piece = pieces[number]
        if number in added:
            texts[number] = added[number].content.encode()
        elif '"ByteLevel"' in decoder:
            texts[number] = text = byte_level(piece)
            byte_ids |= {text[0]: number} if len(text) == 1 else {}
        elif '"ByteFallback"' in decoder and re.fullmatch("<0x[0-9A-F]{2}>", piece):
            byte_ids[int(piece[3:5], 16)] = number
        else:
            texts[number] = _decode(tokenizer, piece)
    return Pieces(texts, byte_ids, roles)


def split_with(directory: Path, texts: list[str]) -> list[list[int]]:
    """Ids of each text as it stands inside a line, with no special or unknown piece."""
    tokenizer, settings = _read(directory)
    unknown = _roles(directory, tokenizer, settings).get("unk")
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [[number for number in text.ids if number != unknown] for text in encoded]


def _read(directory: Path) -> "tuple[Tokenizer, dict[str, Any]]":
    """The tokenizer without what it would put before, after or in place of a text, and its settings."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    settings = without_prefix(read_settings(path))
    try:
        tokenizer = Tokenizer.from_str(json.dumps(settings))
    except Exception as error:  # the library has no narrower class
        raise UserError(
            f"{path} is no tokenizer that the tokenizers library reads ({error}); fetch it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer, settings


def _roles(directory: Path, tokenizer: "Tokenizer", settings: dict[str, Any]) -> dict[str, int]:
    """Ids of the special pieces, by role; a tokenizer's model says itself which piece is for what it cannot write."""
    unknown = settings["model"].get("unk_token")
    named = ({"unk": unknown} if unknown else {}) | special_pieces(directory)
    ids = {role: tokenizer.token_to_id(piece) if isinstance(piece, str) else piece for role, piece in named.items()}
    return {role: number for role, number in ids.items() if number is not None}


def _decode(tokenizer: "Tokenizer", piece: str) -> bytes:
    """By the tokenizer's own decoder, after a letter: decoders strip the space that begins a text."""
    return (tokenizer.decoder.decode(["a", piece]).removeprefix("a") if tokenizer.decoder else piece).encode()


def _merges(processor: sentencepiece.SentencePieceProcessor, pieces: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, in the order in which SentencePiece would join them."""
    merges = []
    for piece, rank in pieces.items():
        if processor.is_byte(rank) or processor.is_control(rank) or processor.is_unknown(rank):
            continue
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        made = [pair for pair in pairs if pair[0] in pieces and pair[1] in pieces]
        merges += [(rank, pieces[left], left, right) for left, right in made]
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]


def _pieces_of(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        while len(line) * 4 > MAX_LINE_BYTES:
            yield line[: MAX_LINE_BYTES // 4]
            line = line[MAX_LINE_BYTES // 4 :]
        if line:
            yield line


def _explain(error: RuntimeError, config: TrainTokenizerConfig) -> Exception:
    text = str(error)
    if "sentences_.empty()" in text or "all_chars_count" in text:
        return UserError("the sample holds no text to learn a tokenizer from; raise sample_bytes or add text")
    if match := re.search(r"value <= (\d+)", text):
        most = f"the text allows at most {int(match[1]):,}"
        return UserError(f"vocab_size is {config.vocab_size:,}, but {most}; lower vocab_size or add text")
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        least = f"this text needs at least {int(match[1]):,} for its characters and bytes"
        return UserError(
            f"vocab_size is {config.vocab_size:,}, but {least}; raise vocab_size or lower character_coverage"
        )
    return error
