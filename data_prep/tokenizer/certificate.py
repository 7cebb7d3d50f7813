"""The certificate of a tokenizer: all that reads its files gives the ids that `tokenize` writes."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.host.files import sha256_of
from configs.base import Artifact
from configs.text import one_line, shorten
from data_prep.manifests import Certificate, TrainedTokenizer
from data_prep.tokenizer.certificate_texts import ADVERSARIAL
from data_prep.tokenizer.encoder import Encode, encode_batch, load_tokenizer_json, open_encoder
from data_prep.tokenizer.pieces import read_settings
from data_prep.tokenizer.sentencepiece_model import load_sentencepiece
from data_prep.tokenizer.stage import HUGGING_FACE, MODEL

_JSON = "tokenizer.json"
_MAX_CHARACTERS = 20


class LoadersDiffer(RuntimeError):
    """Something that reads a tokenizer's files gives other ids than `tokenize`, or ids of special pieces for text."""


@dataclass(frozen=True)
class _Loader:
    """A way to read a tokenizer's files, and the flag with which text that spells a special piece is text."""

    name: str
    flag: str
    open: Callable[[bool], Encode]
    """Takes whether to set the flag."""


def certify(
    directory: Path,
    texts: list[str],
    *,
    num_languages: int,
    special: dict[str, int],
    unknown: int | None,
    notes: tuple[str, ...] = (),
) -> Certificate:
    """Compare what reads the tokenizer of an artifact on texts, and on texts that spell its special pieces.

    Raises LoadersDiffer if one gives other ids whatever its flag, or if a special piece is among the ids.
    """
    texts = [*texts, *spell(special)]
    expected = open_encoder(directory)(texts)
    forbidden = set(special.values()) - {unknown}
    if found := [text for text, ids in zip(texts, expected, strict=True) if forbidden & set(ids)]:
        raise LoadersDiffer(f"a special piece is among the ids of {_describe_texts(found, texts)}")
    auto = _open_auto(directory / HUGGING_FACE)
    decoded = [_decode(auto, ids) for ids in expected]
    changed = [text for text, made in zip(texts, decoded, strict=True) if text != made]
    if (directory / MODEL).is_file():
        by_model = load_sentencepiece(directory / MODEL).decode(expected)
        if other := [text for text, one, made in zip(texts, by_model, decoded, strict=True) if one != made]:
            notes += (
                f"SentencePiece and tokenizer.json decode the ids of {_describe_texts(other, texts)} differently",
            )
    return Certificate(
        num_texts=len(texts),
        num_languages=num_languages,
        model_sha256=sha256_of(directory / MODEL) if (directory / MODEL).is_file() else "",
        tokenizer_json_sha256=sha256_of(directory / HUGGING_FACE / _JSON),
        loaders=tuple(_describe(loader, texts, expected) for loader in _loaders(directory)),
        num_changed=len(changed),
        changed_characters=_find_changed_characters(directory, auto, changed),
        num_unknown=sum(unknown in ids for ids in expected) if unknown is not None else 0,
        notes=notes,
    )


def _decode(auto: Any, ids: list[int]) -> str:
    text: str = auto.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _find_changed_characters(directory: Path, auto: Any, texts: list[str]) -> tuple[str, ...]:
    """Return which characters of texts are not decoded to themselves, as `U+2581`: the first of them, by number."""
    characters = sorted(set("".join(texts)))
    # between letters, since some tokenizers take spaces from the edges of a text
    framed = [f"a{character}b" for character in characters]
    decoded = (_decode(auto, ids) for ids in open_encoder(directory)(framed))
    changed = (f"U+{ord(c):04X}" for c, text, made in zip(characters, framed, decoded, strict=True) if text != made)
    return tuple(islice(changed, _MAX_CHARACTERS))


def spell(pieces: Iterable[str]) -> Iterator[str]:
    """Yield texts that spell pieces: alone, between words, and with others beside them."""
    for piece in pieces:
        yield from (piece, f"a {piece} b", f"x{piece}y{piece}{piece}")


def find_differing_texts(encode: Encode, texts: list[str], expected: list[list[int]]) -> list[str]:
    """Return the texts whose ids are not the expected ones."""
    return [text for text, ids, other in zip(texts, expected, encode(texts), strict=True) if ids != other]


def _describe(loader: _Loader, texts: list[str], expected: list[list[int]]) -> str:
    """Return the name of a loader that gives the expected ids, with the flag that it needs. Raises LoadersDiffer."""
    if not find_differing_texts(loader.open(False), texts, expected):
        return loader.name
    if wrong := find_differing_texts(loader.open(True), texts, expected):
        raise LoadersDiffer(f"{loader.name} gives other ids on {_describe_texts(wrong, texts)}")
    return f"{loader.name}, with {loader.flag}"


def _loaders(directory: Path) -> Iterator[_Loader]:
    import sentencepiece
    import tokenizers
    import transformers

    if (directory / MODEL).is_file():
        yield _Loader(f"sentencepiece {sentencepiece.__version__}", "", lambda flag: open_encoder(directory))
    files = directory / HUGGING_FACE

    def open_bare(flag: bool) -> Encode:
        tokenizer = load_tokenizer_json(files / _JSON)
        tokenizer.encode_special_tokens = flag
        return lambda texts: encode_batch(tokenizer, texts)

    yield _Loader(f"tokenizers {tokenizers.__version__} Tokenizer.from_file", "encode_special_tokens = True", open_bare)

    def open_auto(flag: bool) -> Encode:
        auto = _open_auto(files, **({"split_special_tokens": True} if flag else {}))
        return lambda texts: encode_auto(auto, texts)

    name = f"transformers {transformers.__version__} AutoTokenizer"
    yield _Loader(name, "split_special_tokens=True", open_auto)


def encode_auto(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids that a tokenizer of transformers gives, without pieces that begin or end a text."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _open_auto(directory: Path, **settings: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, **settings)


def compare_with_auto(given: Path, made: Path, texts: list[str]) -> tuple[str, ...]:
    """Return a sentence if AutoTokenizer gives other ids for a directory than for the tokenizer that was made of it."""
    import transformers

    expected = open_encoder(made)(texts)
    try:
        auto = _open_auto(given, split_special_tokens=True)
    except Exception as error:  # whatever transformers, or code that it would load, raises
        return (f"transformers {transformers.__version__} does not read {given.name}: {one_line(error)}",)
    wrong = find_differing_texts(lambda some: encode_auto(auto, some), texts, expected)
    if not wrong:
        return ()
    return (
        f"transformers {transformers.__version__} makes a {type(auto).__name__} of {given.name} instead of reading its "
        f"tokenizer.json, and gives other ids for {_describe_texts(wrong, texts)}",
    )


def _describe_texts(found: list[str], texts: list[str]) -> str:
    return f"{len(found):,} of {len(texts):,} texts, such as {shorten(repr(found[0]), 80)}"


def find_differences(directory: Path, tokenizer: Artifact[TrainedTokenizer]) -> list[str]:
    """Return the parts of an exported directory's tokenizer that AutoTokenizer makes otherwise than tokenizer.json has
    them, and the texts for which it gives other ids than `tokenize`.

    The texts are the adversarial ones, and those that spell special pieces.
    """
    auto = _open_auto(directory, split_special_tokens=True)
    made, given = json.loads(auto.backend_tokenizer.to_str()), read_settings(directory / _JSON)
    parts = [part for part in ("normalizer", "pre_tokenizer", "decoder") if made[part] != given[part]]
    texts = [*ADVERSARIAL, *spell(auto.all_special_tokens)]
    expected, begin = open_encoder(tokenizer.dir)(texts), tokenizer.manifest.bos_id
    prompts = expected if begin is None else [[begin, *ids] for ids in expected]
    return [
        *parts,
        *find_differing_texts(lambda some: encode_auto(auto, some), texts, expected),
        *find_differing_texts(lambda some: auto(some, verbose=False)["input_ids"], texts, prompts),
    ]
