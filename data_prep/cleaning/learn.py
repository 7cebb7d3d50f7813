"""What filters learn of a source before it is cleaned: bounds and stop words by language, from a share of its parts."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.data.filters import LearnConfig, Thresholds
from data_prep.cleaning.scan import Part
from data_prep.cleaning.treatment import Treatment
from data_prep.sources.document import Document
from data_prep.sources.table import READERS
from data_prep.text.filters import Sample, learn_thresholds


def learn(parts: Sequence[Part], config: LearnConfig, path: Path, executor: Executor) -> dict[str, int]:
    """Write what is learned, unless it is there; return the languages of which nothing is, with their documents."""
    counts = path.with_suffix(".counts.json")
    if not counts.exists():
        samples: defaultdict[str, Sample] = defaultdict(Sample)
        number = max(1, round(len(parts) * config.share))
        chosen = [parts[place * len(parts) // number] for place in range(number)]
        for found in executor.map(sample_part, chosen, label="learning what texts are like"):
            for language, sample in found.items():
                samples[language].merge(sample)
        write_text(path, learn_thresholds(samples, config).model_dump_json())
        write_text(counts, json.dumps({language: own.num_documents for language, own in sorted(samples.items())}))
    numbers: dict[str, int] = json.loads(counts.read_bytes())
    return {language: number for language, number in numbers.items() if number < config.min_documents}


def sample_part(part: Part) -> dict[str, Sample]:
    """Return what the documents of a part are like, by language."""
    assert part.config.filters is not None and part.config.filters.learn is not None
    config = part.config.filters.learn
    treatment, samples = Treatment(part.source, part.config, Thresholds()), defaultdict[str, Sample](Sample)
    for span in part.spans:
        for entry in READERS[part.source.kind].read(part.source, span):
            if not isinstance(entry, Document):
                continue
            treated = treatment.read(entry)
            if treated.reason is None:
                samples[treated.language].add(treated.spans.marked(treated.text), treated.language, config)
    for sample in samples.values():
        sample.trim()
    return dict(samples)
