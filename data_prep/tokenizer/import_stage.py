"""The stage that takes over the tokenizer of another model, and certifies that all that reads it gives its ids."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.executor import Executor
from cluster.host.files import inside, whole_file, write_text
from configs.base import Artifact, UserError
from configs.data.stages import ImportTokenizerConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.masks.reading import read_held_out
from data_prep.sources.document import Document
from data_prep.tokenizer.certificate_texts import ADVERSARIAL
from data_prep.tokenizer.foreign_files import ForeignTokenizer, named_special, read_foreign
from data_prep.tokenizer.stage import CERTIFIED_PER_STREAM, HUGGING_FACE, MODEL

_MAX_SHARDS_READ = 4
"""Shards of a source that are read for languages of which nothing is held out."""


@dataclass(frozen=True)
class _ImportItem:
    """The one item of work."""

    config: ImportTokenizerConfig
    corpora: tuple[Artifact[CleanCorpus], ...]
    out: Path


def import_tokenizer(
    config: ImportTokenizerConfig, *, corpus: tuple[Artifact[CleanCorpus], ...] = (), out: Path, executor: Executor
) -> TrainedTokenizer:
    """Take over the tokenizer in a directory or file: its ids, its special pieces, the rows of its model.

    It is certified on texts of each source and language of the corpus, if there is one. Raises UserError if its files
    do not give the same ids whatever reads them.
    """
    moved = config.model_copy(update={"path": str(Path(config.path).absolute())})  # workers have another directory
    (manifest,) = executor.map(_import, [_ImportItem(moved, corpus, out)], label="importing the tokenizer")
    return manifest


def check_tokenizer(config: ImportTokenizerConfig) -> None:
    """Raise UserError if the tokenizers library cannot read the files as they are meant: before any text is cleaned."""
    from data_prep.tokenizer.certificate import spell
    from data_prep.tokenizer.hf_import import check_ids_of_text, make_tokenizer_json
    from data_prep.tokenizer.sentencepiece_model import encode_texts, load_sentencepiece

    foreign = read_foreign(config)
    content, _ = make_tokenizer_json(foreign, begin=config.begin_of_text)
    check_ids_of_text(foreign, content, list(ADVERSARIAL))
    if foreign.json is not None:  # in whose encoder special pieces are never found in text
        return
    spelled = list(spell(foreign.special))
    ids = encode_texts(load_sentencepiece(foreign.file), spelled)
    unknown = foreign.vocabulary.get(named_special(foreign.settings).get("unk_token", ""))
    forbidden = set(foreign.special.values()) - {unknown}
    if found := [text for text, own in zip(spelled, ids, strict=True) if forbidden & set(own)]:
        raise UserError(
            f"{foreign.file} cannot be imported: a special piece is among the ids of a text that spells it, such as "
            f"{found[0]!r}; give a directory with the model's tokenizer.json, in which it is an added piece"
        )


def _import(item: _ImportItem) -> TrainedTokenizer:
    from data_prep.tokenizer.certificate import LoadersDiffer, certify
    from data_prep.tokenizer.hf_import import check_ids_of_text, make_tokenizer_config, make_tokenizer_json

    foreign = read_foreign(item.config)
    content, begin = make_tokenizer_json(foreign, begin=item.config.begin_of_text)
    settings = make_tokenizer_config(foreign, json.loads(content), begin=begin)
    files = item.out / HUGGING_FACE
    shutil.rmtree(files, ignore_errors=True)
    write_text(files / "tokenizer.json", content)
    write_text(files / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False))
    if foreign.chat_template:
        write_text(files / foreign.chat_template.name, foreign.chat_template.read_text(encoding="utf-8"))
    if foreign.json is None:
        with whole_file(item.out / MODEL) as partial:
            partial.write_bytes(foreign.file.read_bytes())
    documents = [document for corpus in item.corpora for document in _choose_documents(corpus)]
    texts = [*ADVERSARIAL, *(document.text for document in documents)]
    check_ids_of_text(foreign, content, texts)
    ids, named = foreign.vocabulary, named_special(foreign.settings)
    eos_id, unknown = ids[foreign.end_of_text], ids.get(named.get("unk_token", ""))
    try:
        certificate = certify(
            item.out,
            texts,
            num_languages=len({document.language for document in documents}),
            special=foreign.special,
            unknown=None if unknown in foreign.special.values() else unknown,
            notes=_compare_with_given(item, foreign, texts),
        )
    except LoadersDiffer as error:
        raise UserError(f"{foreign.file} cannot be imported: {error}") from error
    bos_id, pad_id = ids[begin] if begin else None, ids.get(named.get("pad_token", ""))
    return TrainedTokenizer(
        vocab_size=foreign.num_rows,
        eos_id=eos_id,
        pad_id=None if pad_id in (eos_id, bos_id, unknown) else pad_id,
        sample_bytes={},
        certificate=certificate,
        bos_id=bos_id,
        num_pieces=len(set(ids.values())),
    )


def _choose_documents(corpus: Artifact[CleanCorpus]) -> Iterator[Document]:
    """Yield documents of each source and language: held-out ones, or where none is held out the first.

    Those are looked for in the first shards of their source only, since a corpus may be large.
    """
    yield from smallest_digests(read_held_out(corpus), CERTIFIED_PER_STREAM)
    wanted = Counter(
        {
            (count.source, count.language): min(CERTIFIED_PER_STREAM, count.num_kept)
            for count in corpus.manifest.counts
            if not count.num_held_out
        }
    )
    num_read: Counter[str] = Counter()
    for shard in corpus.manifest.shards:
        is_wanted = any(number and source == shard.source for (source, _), number in wanted.items())
        if not is_wanted or num_read[shard.source] == _MAX_SHARDS_READ:
            continue
        num_read[shard.source] += 1
        for document in read_documents(inside(corpus.dir, shard.path)):
            stream = document.source, document.language
            if wanted[stream]:
                wanted[stream] -= 1
                yield document


def _compare_with_given(item: _ImportItem, foreign: ForeignTokenizer, texts: list[str]) -> tuple[str, ...]:
    """Return a sentence if transformers reads the given directory otherwise than its files say."""
    from data_prep.tokenizer.certificate import compare_with_auto

    if not Path(item.config.path).is_dir() or foreign.json is None:
        return ()
    return compare_with_auto(Path(item.config.path), item.out, texts)
