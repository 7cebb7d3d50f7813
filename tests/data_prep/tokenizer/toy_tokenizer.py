"""A tokenizer trained on sentences in 60 languages, for the tests of data_prep/tokenizer."""

from pathlib import Path
from typing import Any

from configs.base import Artifact
from configs.data import TrainTokenizerConfig
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.tokenizer.stage import train_tokenizer
from tests.data_prep.corpora import INLINE, clean_config, cleaned, eld_sentences, source, write_lines

CONFIG = TrainTokenizerConfig(vocab_size=4000, character_coverage=0.995, temperature=2)
SENTENCES = eld_sentences(40)


def make_corpus(root: Path) -> Artifact[CleanCorpus]:
    path = write_lines(root / "eld.jsonl", SENTENCES)
    return cleaned(root / "out", clean_config(source("eld", path), shard_bytes=100_000))


def train(out: Path, corpus: Artifact[CleanCorpus], **changes: Any) -> Artifact[TrainedTokenizer]:
    config = CONFIG.model_copy(update=changes)
    return Artifact(out, train_tokenizer(config, corpus=corpus, out=out, executor=INLINE))
