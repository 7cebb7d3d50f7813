"""A tokenizer trained on sentences in 60 languages, for the tests of data_prep/tokenizer."""

import json
from pathlib import Path
from typing import Any

from configs.base import Artifact
from configs.data.stages import TrainTokenizerConfig
from data_prep.manifests import CleanCorpus, TrainedTokenizer
from data_prep.tokenizer.stage import train_tokenizer
from tests.data_prep.corpora import INLINE, clean_config, cleaned, eld_sentences, source, write_lines

CONFIG = TrainTokenizerConfig(vocab_size=4000, character_coverage=0.995, temperature=2)
SENTENCES = eld_sentences(40)


def make_corpus(root: Path) -> Artifact[CleanCorpus]:
    """Clean the sentences; their ids do not hold `root`, so that the same ones are drawn as a sample in each run."""
    rows = [
        json.dumps({"id": f"{i}", "language": language, "text": text}) for i, (language, text) in enumerate(SENTENCES)
    ]
    eld = source("eld", write_lines(root / "eld.jsonl", rows)) | {"id_field": "id"}
    return cleaned(root / "out", clean_config(eld, shard_bytes=100_000))


def train(out: Path, corpus: Artifact[CleanCorpus], **changes: Any) -> Artifact[TrainedTokenizer]:
    config = CONFIG.model_copy(update=changes)
    return Artifact(out, train_tokenizer(config, corpus=(corpus,), out=out, executor=INLINE))
