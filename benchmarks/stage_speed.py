"""Measure how fast a core cleans and tokenises: what `concord plan` assumes as long as a store has done neither.

    python benchmarks/stage_speed.py [--megabytes 20] [--repeat 3]

It writes JSON lines of web-page size, 20 sentences each, from the 60,000 sentences in 60 languages of the smoke recipe,
makes their corpus and tokens, one item after the other, and prints a JSON line for each stage: megabytes of text a
second of one core, of the fastest repetition.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.data.sources import PackageTextSource
from data_prep.sources.document import Document
from data_prep.sources.table import READERS
from pipeline.estimate.stage_time import rate_of
from pipeline.graph.why import finished_records

RECIPE = """\
name: speed
store: {directory}/store
steps:
  corpus: {{stage: clean, config: {{sources: [{{name: web, kind: json_lines, paths: ['{directory}/web.jsonl']}}]}}}}
  tokenizer: {{stage: train_tokenizer, inputs: {{corpus: corpus}}, config: {{vocab_size: 8192, sample_bytes: 4000000}}}}
  tokens: {{stage: tokenize, inputs: {{corpus: corpus, tokenizer: tokenizer}}}}
"""
SENTENCES = 20


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    rates: dict[str, list[float]] = {"clean": [], "tokenize": []}
    for _ in range(given.repeat):
        with tempfile.TemporaryDirectory() as directory:
            write_documents(Path(directory) / "web.jsonl", num_bytes=given.megabytes * 10**6)
            recipe = Path(directory) / "speed.yaml"
            recipe.write_text(RECIPE.format(directory=directory))
            command = [sys.executable, "-m", "pipeline.cli", "run", str(recipe), "--cluster", "inline"]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
            for stage, found in rates.items():
                (record,) = finished_records(stage, Path(directory) / "store")
                rate = rate_of(record)
                assert rate is not None
                found.append(rate)
    for stage, found in rates.items():
        print(json.dumps({"stage": stage, "megabytes_per_core_second": round(max(found) / 1e6, 2), "runs": len(found)}))


def write_documents(path: Path, *, num_bytes: int) -> None:
    """Write JSON lines with so many bytes of text; no two are equal."""
    source = PackageTextSource(
        name="sentences",
        kind="package_text",
        package="eld",
        path="tests/data/big-test.txt",
        language_column=0,
        text_column=1,
    )
    reader = READERS[source.kind]
    records = [record for part in reader.spans(source) for record in reader.read(source, part)]
    texts = [record.text for record in records if isinstance(record, Document)]
    written, number = 0, count()
    with path.open("w", encoding="utf-8") as file:
        while written < num_bytes:
            for first in range(0, len(texts), SENTENCES):
                text = f"{next(number)} " + " ".join(texts[first : first + SENTENCES])
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written += len(text.encode())


if __name__ == "__main__":
    main()
