"""The stage that learns a tokenizer and certifies that its Hugging Face export gives the same ids."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cluster.executor import Executor
from cluster.host.files import inside, sha256_of, whole_file
from configs.base import Artifact, UserError
from configs.data.stages import TrainTokenizerConfig
from data_prep.cleaning.document_files import read_documents, write_documents
from data_prep.cleaning.held_out import smallest_digests
from data_prep.manifests import Certificate, CleanCorpus, TrainedTokenizer
from data_prep.masks.reading import read_held_out
from data_prep.sources.document import Document
from data_prep.tokenizer.certificate_texts import ADVERSARIAL

MODEL = "tokenizer.model"
HUGGING_FACE = "hugging_face"
CERTIFIED_PER_STREAM = 50
"""Documents of each source and language on which the export is compared with SentencePiece. Those that are held out
have the smallest digests, so that they come first."""


@dataclass(frozen=True)
class _SampleItem:
    """One item of work: draw the documents of a shard to learn from."""

    shard: Path
    sample: Path
    rates: Mapping[str, float]
    """Language -> share of its documents to draw, 0 to 1."""

    seed: int


@dataclass(frozen=True)
class _LearningItem:
    """The one item of work that learns from the samples."""

    samples: tuple[Path, ...]
    corpora: tuple[Artifact[CleanCorpus], ...]
    config: TrainTokenizerConfig
    out: Path


def train_tokenizer(
    config: TrainTokenizerConfig, *, corpus: tuple[Artifact[CleanCorpus], ...], out: Path, executor: Executor
) -> TrainedTokenizer:
    """Draw a sample by language from all corpora, learn a tokenizer from it, export it, certify the export."""
    rates = sampling_rates(_count_language_bytes([one.manifest for one in corpus]), config)
    shards = [inside(one.dir, shard.path) for one in corpus for shard in one.manifest.shards]
    items = [
        _SampleItem(shard, out / "sample" / f"{i:06d}.jsonl.zst", rates, config.seed) for i, shard in enumerate(shards)
    ]
    sizes: Counter[str] = Counter()
    for drawn in executor.map(_draw_sample, items, label="drawing the tokenizer's sample"):
        sizes.update(drawn)
    learning = _LearningItem(tuple(item.sample for item in items), corpus, config, out)
    (certificate,) = executor.map(_learn_and_certify, [learning], label="learning the tokenizer")
    shutil.rmtree(out / "sample")  # with what a killed worker may have left half-written in it
    from data_prep.tokenizer.sentencepiece_model import EOS_ID, PAD_ID

    return TrainedTokenizer(
        vocab_size=config.vocab_size,
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        sample_bytes=dict(sorted(sizes.items())),
        certificate=certificate,
    )


def sampling_rates(language_bytes: Mapping[str, int], config: TrainTokenizerConfig) -> dict[str, float]:
    """Return the share of each language's text to learn from, 0 to 1; a language without text is left out.

    The budget of config.sample_bytes is divided in proportion to bytes ** (1 / temperature); what a small language
    cannot use goes to the others.
    """
    weights = {language: size ** (1 / config.temperature) for language, size in language_bytes.items() if size}
    rates: dict[str, float] = {}
    budget = float(config.sample_bytes)
    for language in sorted(weights, key=lambda name: language_bytes[name] / weights[name]):  # fullest share first
        rest = sum(weight for other, weight in weights.items() if other not in rates)
        rates[language] = min(1.0, budget * weights[language] / rest / language_bytes[language])
        budget -= rates[language] * language_bytes[language]
    return rates


def _count_language_bytes(corpora: Iterable[CleanCorpus]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for count in (count for corpus in corpora for count in corpus.counts):
        sizes[count.language] += count.kept_bytes
    return sizes


def _draw_sample(item: _SampleItem) -> Counter[str]:
    """Write the drawn documents of a shard and return their bytes by language."""
    chosen = [document for document in read_documents(item.shard) if _is_drawn(document, item)]
    write_documents(item.sample, chosen)
    sizes: Counter[str] = Counter()
    for document in chosen:
        sizes[document.language] += len(document.text.encode())
    return sizes


def _is_drawn(document: Document, item: _SampleItem) -> bool:
    """Decide by a hash of the text, of which there is one in a corpus, and the seed; ids may repeat."""
    salt = item.seed.to_bytes(16, "little", signed=True)
    key = hashlib.blake2b(document.text.encode(), digest_size=8, salt=salt).digest()
    return int.from_bytes(key, "little") < item.rates[document.language] * 2**64


def _learn_and_certify(learning: _LearningItem) -> Certificate:
    from data_prep.tokenizer.certificate import certify
    from data_prep.tokenizer.hf_export import export_hugging_face
    from data_prep.tokenizer.sentencepiece_model import EOS, EOS_ID, PAD, PAD_ID, UNK, UNK_ID, train_sentencepiece

    lines = (
        line for sample in learning.samples for document in read_documents(sample) for line in document.text.split("\n")
    )
    model = train_sentencepiece(lines, learning.config)
    with whole_file(learning.out / MODEL) as partial:
        partial.write_bytes(model)
    export_hugging_face(model, learning.out / HUGGING_FACE)
    sampled = (document for sample in learning.samples for document in read_documents(sample))
    certified = smallest_digests(chain(*map(read_held_out, learning.corpora), sampled), CERTIFIED_PER_STREAM)
    return certify(
        learning.out,
        [*ADVERSARIAL, *(document.text for document in certified)],
        num_languages=len({document.language for document in certified}),
        special={UNK: UNK_ID, EOS: EOS_ID, PAD: PAD_ID},  # bytes without a piece have byte pieces, so none is unknown
        unknown=None,
    )


def check_certificate(tokenizer: Artifact[TrainedTokenizer]) -> None:
    """Raise UserError if the tokenizer's files are not those that were certified."""
    certificate = tokenizer.manifest.certificate
    for name, sha256 in (
        (MODEL, certificate.model_sha256),
        (f"{HUGGING_FACE}/tokenizer.json", certificate.tokenizer_json_sha256),
    ):
        path = inside(tokenizer.dir, name)
        if (sha256_of(path) if path.is_file() else "") != sha256:
            raise UserError(
                f"{tokenizer.dir / name} is not the file that was certified; delete its artifact to have it made again"
            )
