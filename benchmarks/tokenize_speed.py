"""Compare the stage `tokenize` with raw SentencePiece, and with another tool, on the same text and the same cores.

    python benchmarks/tokenize_speed.py [--megabytes 50 200] [--workers 2] [--other PYTHON]

Raw: processes, one a core, each of which encodes its share of the texts, which it has in memory, in batches of 1,000
with the same model, and keeps nothing. The stage runs on as many workers of a private Ray, which is started before the
clock: it reads clean shards and writes token shards. `--other` is the Python of an environment with datatrove, which
reads the same text from JSON lines in as many files and writes its own token files, with the exported tokenizer.json.
Each line has the seconds of all, in turns, twice; the ratio is that of the faster ones.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from stage_speed import write_documents

from cluster.inline import InlineExecutor
from cluster.ray.executor import RayExecutor
from configs.base import Artifact
from configs.data.stages import CleanConfig, TokenizeConfig, TrainTokenizerConfig
from configs.pools import PoolConfig
from data_prep.cleaning.document_files import read_documents
from data_prep.cleaning.stage import clean
from data_prep.manifests import CleanCorpus
from data_prep.tokenizer.sentencepiece_model import load_sentencepiece
from data_prep.tokenizer.stage import MODEL, train_tokenizer
from data_prep.tokens.stage import tokenize

OTHER = """
import sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
if __name__ == "__main__":
    texts, tokenizer, out, workers = sys.argv[1:]
    write = DocumentTokenizer(out, tokenizer_name_or_path=tokenizer, eos_token="</s>", shuffle_documents=False)
    number = int(workers)
    steps = [JsonlReader(texts), write]
    executor = LocalPipelineExecutor(pipeline=steps, tasks=number, workers=number, logging_dir=out + "-logs")
    start = time.perf_counter()
    executor.run()
    print(time.perf_counter() - start)
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--other")
    given = parser.parse_args()
    ray = RayExecutor(PoolConfig.model_validate({"cpus_per_task": 1}), address="local")
    ray.placement()
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps(compare(Path(directory), megabytes, given, ray)), flush=True)


def compare(directory: Path, megabytes: int, given: argparse.Namespace, ray: RayExecutor) -> dict[str, object]:
    """Return the seconds that each takes."""
    write_documents(directory / "web.jsonl", num_bytes=megabytes * 10**6)
    source = {"name": "web", "kind": "json_lines", "paths": [str(directory / "web.jsonl")]}
    inline, config = InlineExecutor(PoolConfig()), CleanConfig.model_validate({"sources": [source]})
    corpus = Artifact(directory / "clean", clean(config, out=directory / "clean", executor=inline))
    learning = TrainTokenizerConfig(vocab_size=8192, sample_bytes=4_000_000)
    made = train_tokenizer(learning, corpus=(corpus,), out=directory / "tokenizer", executor=inline)
    tokenizer = Artifact(directory / "tokenizer", made)
    texts = split_texts(corpus, directory / "texts", given.workers)
    seconds: dict[str, list[float]] = {"raw": [], "stage": []} | ({"other": []} if given.other else {})
    for turn in range(2):
        seconds["raw"].append(encode_raw(texts, tokenizer.dir / MODEL))
        out = directory / f"tokens-{turn}"
        out.mkdir()
        start = time.perf_counter()
        tokenize(TokenizeConfig(), corpus=corpus, tokenizer=tokenizer, out=out, executor=ray)
        seconds["stage"].append(time.perf_counter() - start)
        if given.other:
            seconds["other"].append(run_other(given, directory, turn))
    best = {name: min(took) for name, took in seconds.items()}
    found: dict[str, object] = {name: [round(one, 2) for one in took] for name, took in seconds.items()}
    ratios = {f"{name}_over_stage": round(took / best["stage"], 2) for name, took in best.items() if name != "stage"}
    return {"megabytes": megabytes, "workers": given.workers, **found, **ratios}


def split_texts(corpus: Artifact[CleanCorpus], directory: Path, number: int) -> list[Path]:
    """Write the documents as JSON lines in so many files."""
    directory.mkdir()
    paths = [directory / f"{i}.jsonl" for i in range(number)]
    files = [path.open("w", encoding="utf-8") for path in paths]
    documents = (d for shard in corpus.manifest.shards for d in read_documents(corpus.dir / shard.path))
    for i, document in enumerate(documents):
        files[i % number].write(json.dumps({"text": document.text, "id": document.id}, ensure_ascii=False) + "\n")
    for file in files:
        file.close()
    return paths


def encode_raw(texts: list[Path], model: Path) -> float:
    """Return the seconds that processes take to encode texts which they have in memory."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(len(texts) + 1), context.Event()
    processes = [context.Process(target=_encode, args=(path, model, ready, go)) for path in texts]
    for process in processes:
        process.start()
    ready.wait()
    start = time.perf_counter()
    go.set()
    for process in processes:
        process.join()
    return time.perf_counter() - start


def _encode(path: Path, model: Path, ready: Any, go: Any) -> None:
    processor = load_sentencepiece(model)
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    ready.wait()
    go.wait()
    for first in range(0, len(texts), 1000):
        processor.encode(texts[first : first + 1000], num_threads=1)


def run_other(given: argparse.Namespace, directory: Path, turn: int) -> float:
    """Return the seconds that datatrove takes, from a process of its own that has imported it."""
    script = directory / "other.py"
    script.write_text(OTHER)
    tokenizer = directory / "tokenizer" / "hugging_face" / "tokenizer.json"
    command = [given.other, str(script), str(directory / "texts"), str(tokenizer), str(directory / f"other-{turn}")]
    done = subprocess.run([*command, str(given.workers)], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
