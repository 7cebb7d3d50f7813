"""The files of a tokenizer that is imported: found, read as far as no heavy library is needed, observed.

`concord plan` reads them too, so what is missing is said before anything is made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from cluster.storage.errors import error_class
from configs.base import UserError
from configs.data.stages import ImportTokenizerConfig
from configs.text import one_line
from data_prep.sources.document import Digest
from data_prep.tokenizer.pieces import read_settings

TOKENIZER_JSON = "tokenizer.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model")
_FAIRSEQ = "sentencepiece.bpe.model"
"""The model in directories of XLM-R, mBART, XGLM and the like, whose ids are others than SentencePiece's own."""

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
"""Files of a tokenizer beside it: what is there is hashed whole. Of the model's own only what is used is."""

_MODEL_SETTINGS = ("generation_config.json", "config.json")
_NAMED_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class ForeignTokenizer:
    """A tokenizer that is imported, as its files describe it."""

    file: Path
    """A tokenizer.json, or a SentencePiece model."""

    json: dict[str, Any] | None
    """The content of the tokenizer.json, with the pieces that only files beside it add; None for SentencePiece."""

    settings: dict[str, Any]
    """Those of tokenizer_config.json and of special_tokens_map.json; the first counts where both have one."""

    vocabulary: dict[str, int]
    """Piece -> id, added ones included."""

    special: dict[str, int]
    """Special pieces, which text never gives, by piece; without the unknown one."""

    end_of_text: str
    num_rows: int
    """Ids up to the largest with a piece, or the rows of the model's embedding if these are more."""

    chat_template: Path | None


def observe_tokenizer(config: ImportTokenizerConfig, digest: Digest) -> JsonValue:
    """Return the digests of the files, and what is used of the settings of the model beside them."""
    found = read_foreign(config)
    files: JsonValue = {file.name: digest(file) for file in [found.file, *_files_beside(config, SETTINGS).values()]}
    return {"files": files, "end_of_text": found.end_of_text, "rows": found.num_rows}


def read_foreign(config: ImportTokenizerConfig) -> ForeignTokenizer:
    """Read the files that a recipe names. Raises UserError if they are no tokenizer or do not say how a text ends."""
    file = find_tokenizer_file(Path(config.path))
    beside = _files_beside(config, (*SETTINGS, *_MODEL_SETTINGS))
    known = {name: read_settings(path) for name, path in beside.items() if path.suffix == ".json"}
    settings = known.get("special_tokens_map.json", {}) | known.get("tokenizer_config.json", {})
    added = list(_added_beside(known))
    if file.suffix == ".json":
        content = _with_added(read_settings(file), added, file)
        pieces = content["model"]["vocab"]
        vocabulary = dict(pieces) if isinstance(pieces, dict) else {piece: i for i, (piece, _) in enumerate(pieces)}
        vocabulary |= {token["content"]: token["id"] for token in content["added_tokens"]}
        special = {token["content"] for token in content["added_tokens"] if token.get("special")}
    else:
        content = None
        vocabulary, special, roles = _read_sentencepiece(file)
        vocabulary |= {token["content"]: token["id"] for token in added}
        special |= {token["content"] for token in added}  # SentencePiece finds none of them in a text
        settings = roles | settings
    end = _find_end(config, file, vocabulary, [settings, *(known.get(name, {}) for name in _MODEL_SETTINGS)])
    begin = {config.begin_of_text} if config.begin_of_text else set()
    for piece in {end} | begin:
        _check_piece(piece, vocabulary, file)
    unknown = _text_of(settings.get("unk_token"))
    special |= set(named_special(settings).values()) | set(_listed(settings))
    special = (special - {unknown}) | {end} | begin
    model = known.get("config.json", {})
    rows = model.get("vocab_size") or (model.get("text_config") or {}).get("vocab_size")
    return ForeignTokenizer(
        file=file,
        json=content,
        settings=settings,
        vocabulary=vocabulary,
        special={piece: vocabulary[piece] for piece in sorted(special & vocabulary.keys())},
        end_of_text=end,
        num_rows=max(max(vocabulary.values()) + 1, rows if isinstance(rows, int) else 0),
        chat_template=beside.get("chat_template.jinja"),
    )


def find_tokenizer_file(path: Path) -> Path:
    """Return the tokenizer.json or the SentencePiece model that a path leads to. Raises UserError if there is none."""
    if path.name == _FAIRSEQ or (not (path / TOKENIZER_JSON).is_file() and (path / _FAIRSEQ).is_file()):
        raise UserError(
            f"{path}: the ids of a model with {_FAIRSEQ} are not those of that file; have transformers write its "
            f"{TOKENIZER_JSON} beside it: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    if path.is_file():
        if path.suffix in (".json", ".model"):
            return path
        raise UserError(f"{path} is neither a tokenizer.json nor a SentencePiece model, which ends in .model")
    if not path.is_dir():
        raise UserError(f"there is no file or directory {path} (seen from {Path.cwd()}); correct `path`")
    for name in (TOKENIZER_JSON, *_SENTENCEPIECE):
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"{path} holds neither {TOKENIZER_JSON} nor {' nor '.join(_SENTENCEPIECE)}; have transformers write the first: "
        "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
    )


def named_special(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the pieces that settings give a role, such as `eos_token`, by key."""
    return {key: text for key in _NAMED_SPECIAL if (text := _text_of(settings.get(key)))}


def _files_beside(config: ImportTokenizerConfig, names: Iterable[str]) -> dict[str, Path]:
    """Return the files of these names in the directory; none beside a file that is named itself."""
    path = Path(config.path)
    return {name: path / name for name in names if path.is_dir() and (path / name).is_file()}


def _added_beside(known: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the added pieces of files beside the tokenizer, as a tokenizer.json has them."""
    for piece, number in known.get("added_tokens.json", {}).items():
        yield _added(piece, number)
    for number, token in (known.get("tokenizer_config.json", {}).get("added_tokens_decoder") or {}).items():
        yield _added(token["content"], int(number)) | {key: token[key] for key in _ADDED_FLAGS if key in token}


def _added(piece: str, number: int) -> dict[str, Any]:
    return {"id": number, "content": piece} | dict.fromkeys(_ADDED_FLAGS, False)


def _with_added(content: dict[str, Any], added: list[dict[str, Any]], file: Path) -> dict[str, Any]:
    """Return the content of a tokenizer.json with further added pieces, in the order of the ids."""
    if not isinstance(content.get("model"), dict) or not content["model"].get("vocab"):
        raise UserError(f"{file} holds no vocabulary of a tokenizer; fetch it again")
    own = {token["content"]: token for token in content.get("added_tokens") or []}
    merged = {token["content"]: token for token in added} | own
    return content | {"added_tokens": sorted(merged.values(), key=lambda token: int(token["id"]))}


def _read_sentencepiece(file: Path) -> tuple[dict[str, int], set[str], dict[str, Any]]:
    """Return the pieces of a SentencePiece model by id, the control pieces, and roles as settings name them."""
    from data_prep.tokenizer.sentencepiece_model import read_vocabulary

    try:
        found = read_vocabulary(file.read_bytes())
    except OSError as error:
        raise error_class(error)(f"{file} cannot be read ({error.strerror}); fetch it again") from error
    except RuntimeError as error:
        raise UserError(f"{file} is no SentencePiece model ({one_line(error)}); fetch it again") from error
    return dict(found.ids), set(found.control), {f"{role}_token": piece for role, piece in found.roles.items()}


def _find_end(
    config: ImportTokenizerConfig, file: Path, vocabulary: Mapping[str, int], known: list[Mapping[str, Any]]
) -> str:
    """Return the piece that ends a text. Raises UserError if no file names one."""
    if config.end_of_text:
        return config.end_of_text
    names = {number: piece for piece, number in vocabulary.items()}
    for settings in known:
        match settings.get("eos_token"), settings.get("eos_token_id"):
            case (str() as piece, _) | ({"content": str() as piece}, _):
                return piece
            case (_, int() as number) | (_, [int() as number, *_]) if number in names:
                return names[number]
    raise UserError(
        f"{file}: no file of the tokenizer says which piece ends a text; name it as end_of_text, or give the directory "
        "with its tokenizer_config.json"
    )


def _check_piece(piece: str, vocabulary: Mapping[str, int], file: Path) -> None:
    if piece not in vocabulary:
        close = get_close_matches(piece, vocabulary, n=1)
        raise UserError(f"{file} has no piece {piece!r}" + (f"; did you mean {close[0]!r}?" if close else ""))


def _listed(settings: Mapping[str, Any]) -> list[str]:
    """Return the special pieces without a role."""
    lists = [settings.get(key) or [] for key in ("additional_special_tokens", "extra_special_tokens")]
    values = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in lists)
    return [text for text in map(_text_of, values) if text]


def _text_of(token: Any) -> str | None:
    match token:
        case str() | {"content": str()}:
            return token if isinstance(token, str) else str(token["content"])
    return None
