"""The tokenizer.json of an imported tokenizer: the given one, in which text gives no special piece."""

import json
import re
from typing import TYPE_CHECKING, Any

from configs.base import UserError
from configs.text import shorten
from data_prep.tokenizer.certificate import spell
from data_prep.tokenizer.encoder import encode_batch, parse_tokenizer
from data_prep.tokenizer.foreign_files import ForeignTokenizer, named_special
from data_prep.tokenizer.hf_export import convert_sentencepiece

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_KEPT = (
    "additional_special_tokens",
    "chat_template",
    "clean_up_tokenization_spaces",
    "extra_special_tokens",
    "padding_side",
    "split_special_tokens",
    "truncation_side",
)
"""Settings of tokenizer_config.json that mean the same whatever class reads it, besides `..._token`."""

_NEVER = "\uffff \uffff"
"""A piece that is in no text: a space never stands in a piece."""

_ADDS_BEGIN = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
"""Classes of transformers that put the piece that begins a text before it, where no file says anything else."""


def make_tokenizer_json(foreign: ForeignTokenizer, *, begin: str | None) -> tuple[str, str | None]:
    """Return the content of the tokenizer.json, and the piece that begins each document; None if no piece does.

    The ids of a text are those of the given files, except that what spells a special piece is text. `begin` is what the
    recipe names. Raises UserError if the files are none that the tokenizers library reads as they are meant.
    """
    given = foreign.json or json.loads(convert_sentencepiece(foreign.file.read_bytes()).to_str())
    added = _mark_special(given["added_tokens"], foreign)
    content = given | {"added_tokens": added, "padding": None, "truncation": None}
    tokenizer = parse_tokenizer(json.dumps(content), foreign.file)
    _check_ids(tokenizer, foreign)
    begin = begin or _find_begin(tokenizer, foreign)
    content["post_processor"] = _post_processor(content, tokenizer, begin)
    if pieces := _reachable(content, foreign):
        content["pre_tokenizer"] = _with_cuts(content, _choose_cuts(pieces, content, foreign))
    return json.dumps(content, ensure_ascii=False), begin


def check_ids_of_text(foreign: ForeignTokenizer, content: str, texts: list[str]) -> None:
    """Raise UserError if `content` gives ids of special pieces, or other ids than the given tokenizer.json, for text.

    Texts that spell a special piece may have other ids. Others would if the recipe named an ordinary piece as one that
    begins or ends a text.
    """
    made, special = encode_batch(parse_tokenizer(content, foreign.file), texts), set(foreign.special.values())
    wrong = [text for text, ids in zip(texts, made, strict=True) if special & set(ids)]
    if foreign.json is not None:
        given = encode_batch(_parse(foreign.json, foreign), texts)
        differing = (text for text, ids, other in zip(texts, made, given, strict=True) if ids != other)
        wrong += [text for text in differing if not any(piece in text for piece in foreign.special)]
    if wrong:
        raise UserError(
            f"{foreign.file} cannot be imported so that text gives no special piece, and else the ids it had: "
            f"{shorten(repr(wrong[0]), 80)} does not; name no ordinary piece as end_of_text or begin_of_text"
        )


def make_tokenizer_config(foreign: ForeignTokenizer, content: dict[str, Any], *, begin: str | None) -> dict[str, Any]:
    """Return tokenizer_config.json: the given settings, to be read by the class that takes tokenizer.json as it is."""
    settings = {key: value for key, value in foreign.settings.items() if key in _KEPT or key.endswith("_token")}
    settings = {key: value for key, value in settings.items() if not key.startswith(("add_", "use_"))}
    settings |= named_special(foreign.settings) | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": foreign.end_of_text,
    }
    settings |= {"bos_token": begin} if begin else {}
    settings.setdefault("clean_up_tokenization_spaces", False)
    if "add_prefix_space" in (content.get("pre_tokenizer") or {}):  # else transformers 4 would set it to false
        settings["add_prefix_space"] = content["pre_tokenizer"]["add_prefix_space"]
    return settings


def _special_token(piece: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": piece, **flags, "special": True}


def _mark_special(tokens: list[dict[str, Any]], foreign: ForeignTokenizer) -> list[dict[str, Any]]:
    """Return added pieces with all special ones among them marked: only those are text where text spells them."""
    found = {token["content"]: token for token in tokens}
    for piece, number in foreign.special.items():
        found[piece] = found.get(piece, _special_token(piece, number)) | {"special": True}
    return sorted(found.values(), key=lambda token: int(token["id"]))


def _check_ids(tokenizer: "Tokenizer", foreign: ForeignTokenizer) -> None:
    """Raise UserError if the library gives a piece another id than the files say, such as after a gap."""
    found = tokenizer.get_vocab(with_added_tokens=True)
    for piece, number in foreign.vocabulary.items():
        if found.get(piece) != number:
            raise UserError(
                f"{foreign.file}: piece {piece!r} has id {number} there, and the tokenizers library gives it "
                f"{found.get(piece)}; mend the ids of the added pieces"
            )


def _find_begin(tokenizer: "Tokenizer", foreign: ForeignTokenizer) -> str | None:
    """Return the piece that the tokenizer puts before a text. What tokenizer_config.json says of it counts first."""
    named, says = named_special(foreign.settings).get("bos_token"), foreign.settings.get("add_bos_token")
    if foreign.json is None and says is None:
        says = str(foreign.settings.get("tokenizer_class", "")).removesuffix("Fast") in _ADDS_BEGIN
    if says is not None and named:
        return named if says else None
    whole, text = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (True, False))
    before = whole[: next((i for i in range(len(whole)) if whole[i : i + len(text)] == text), 0)]
    if len(before) > 1:
        pieces = [tokenizer.id_to_token(number) for number in before]
        raise UserError(f"{foreign.file} puts {len(before)} pieces before a text, {pieces}; name one as begin_of_text")
    return tokenizer.id_to_token(before[0]) if before else None


def _post_processor(content: dict[str, Any], tokenizer: "Tokenizer", begin: str | None) -> Any:
    """Return the part of tokenizer.json that puts `begin`, and nothing else, before a text."""
    whole, text = (tokenizer.encode("a", add_special_tokens=flag).ids for flag in (True, False))
    if whole == ([tokenizer.token_to_id(begin)] if begin else []) + text:
        return content.get("post_processor")
    if begin is None:
        return None
    first, a, b = (
        {"SpecialToken": {"id": begin, "type_id": 0}},
        *({"Sequence": {"id": s, "type_id": 0}} for s in "AB"),
    )
    known = {begin: {"id": begin, "ids": [tokenizer.token_to_id(begin)], "tokens": [begin]}}
    return {"type": "TemplateProcessing", "single": [first, a], "pair": [first, a, first, b], "special_tokens": known}


def _reachable(content: dict[str, Any], foreign: ForeignTokenizer) -> list[str]:
    """Return the special pieces, the unknown one among them, that text gives all the same.

    A Unigram model takes any piece that it finds in a text; byte pieces, too, which SentencePiece itself does not.
    """
    unknown = named_special(foreign.settings).get("unk_token")
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)] if foreign.json is None else []
    pieces = sorted({*foreign.special, *byte_pieces, unknown or ""} & foreign.vocabulary.keys())
    now, without = _parse(content, foreign), _parse(_without_pieces(content, pieces), foreign)
    texts = {piece: list(spell([piece])) for piece in pieces}
    forbidden = set(foreign.special.values())
    return [
        piece
        for piece, ids in ((piece, encode_batch(now, texts[piece])) for piece in pieces)
        if any(forbidden & set(one) for one in ids) or ids != encode_batch(without, texts[piece])
    ]


def _choose_cuts(pieces: list[str], content: dict[str, Any], foreign: ForeignTokenizer) -> dict[str, int]:
    """Return for each piece where to cut the text that spells it, so that the model does not find it.

    That is the first place that gives the ids of a model without the piece, if one does, or else the first that gives
    no special piece. Raises UserError if there is none.
    """
    texts = {piece: list(spell([piece])) for piece in pieces}
    without = _parse(_without_pieces(content, pieces), foreign)
    expected = {piece: encode_batch(without, texts[piece]) for piece in pieces}
    best: dict[str, int] = {}
    second: dict[str, int] = {}
    for place in range(1, max(map(len, pieces))):
        left = {piece: place for piece in pieces if piece not in best and place < len(piece)}
        tokenizer = _parse(content | {"pre_tokenizer": _with_cuts(content, best | left)}, foreign)
        for piece in left:
            ids = encode_batch(tokenizer, texts[piece])
            is_found = piece in foreign.special and any(foreign.special[piece] in one for one in ids)
            if ids == expected[piece] and not is_found:
                best[piece] = place
            elif not any(foreign.vocabulary[piece] in one for one in ids):
                second.setdefault(piece, place)
    chosen = second | best
    for piece in pieces:
        if piece in foreign.special and piece not in chosen:
            raise UserError(
                f"{foreign.file}: text that spells the special piece {piece!r} gives its id; choose another"
            )
    return chosen


def _with_cuts(content: dict[str, Any], cuts: dict[str, int]) -> dict[str, Any]:
    """Return the pre-tokenizer of a tokenizer.json with a last step that cuts each piece after so many characters."""
    parts = [f"{re.escape(piece[:place])}(?={re.escape(piece[place:])})" for piece, place in cuts.items()]
    step = {"type": "Split", "pattern": {"Regex": "|".join(parts)}, "behavior": "MergedWithPrevious", "invert": False}
    before = content.get("pre_tokenizer")
    steps = before["pretokenizers"] if before and before["type"] == "Sequence" else [before] if before else []
    return {"type": "Sequence", "pretokenizers": [*steps, step]}


def _without_pieces(content: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
    """Return a tokenizer.json whose Unigram model finds none of the pieces; as it is with a model of another kind."""
    model = content["model"]
    if model["type"] != "Unigram":
        return content
    vocabulary = [[_NEVER if text in pieces else text, score] for text, score in model["vocab"]]
    added = [token for token in content["added_tokens"] if token["content"] not in pieces]
    return content | {"model": model | {"vocab": vocabulary}, "added_tokens": added}


def _parse(content: dict[str, Any], foreign: ForeignTokenizer) -> "Tokenizer":
    return parse_tokenizer(json.dumps(content), foreign.file)
