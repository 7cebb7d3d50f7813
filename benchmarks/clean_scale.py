"""Clean corpora of growing size: the time, the memory of the process that drives it, and that of its workers.

    python benchmarks/clean_scale.py [--megabytes 64 256 1024] [--languages 60] [--files 8] [--executor inline]

It makes JSON lines of made-up words, of which every twentieth text is there twice, cleans them with two workers of a
private Ray (or in this process: --executor inline), and prints a JSON line for each size. Each size is a process of its
own. Memory is the largest that was seen, of the driver and of one worker, every 50 ms (resident, less shared pages).
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.data.stages import CleanConfig
from configs.pools import PoolConfig

MB = 10**6
SETTLING_SECONDS = 8
"""For so long the processes of Ray itself take a share of the cores after it has begun to answer."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--languages", type=int, default=60)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray")
    parser.add_argument("--unwatched", action="store_true", help="measure no memory, which takes a share of a core")
    parser.add_argument("--directory", type=Path, help="an earlier call's files are used again")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = given.directory or Path(temporary)
        for size in given.megabytes:
            command = [sys.executable, __file__, "--one", str(size), "--directory", str(directory)]
            command += ["--languages", str(given.languages), "--files", str(given.files), "--executor", given.executor]
            command += ["--unwatched"] if given.unwatched else []
            print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measure(megabytes: int, given: argparse.Namespace) -> dict[str, object]:
    """Clean a corpus of so many megabytes; return what it took."""
    from cluster.inline import InlineExecutor
    from cluster.ray.executor import RayExecutor
    from data_prep.cleaning.stage import clean

    source = given.directory / f"{megabytes}-{given.languages}-{given.files}"
    if not source.exists():
        write_files(source, megabytes * MB, num_languages=given.languages, num_files=given.files)
    config = CleanConfig.model_validate(
        {"sources": [{"name": "web", "kind": "json_lines", "paths": [f"{source}/*"], "language_field": "language"}]}
    )
    pool = PoolConfig.model_validate({"cpus_per_task": 1})
    executor = InlineExecutor(pool) if given.executor == "inline" else RayExecutor(pool, address="local")
    executor.placement()  # Ray is started before the clock
    time.sleep(SETTLING_SECONDS if given.executor == "ray" else 0)
    before, memory, ended = psutil.Process().memory_full_info().uss, _Memory(), threading.Event()
    watcher = threading.Thread(target=memory.watch, args=(ended,))
    if not given.unwatched:
        watcher.start()
    with tempfile.TemporaryDirectory(dir=given.directory) as out:
        start = time.perf_counter()
        manifest = clean(config, out=Path(out), executor=executor)
        seconds = time.perf_counter() - start
    ended.set()
    if not given.unwatched:
        watcher.join()
    return {
        "megabytes": megabytes,
        "languages": given.languages,
        "files": given.files,
        "executor": given.executor,
        "seconds": round(seconds, 2),
        "megabytes_per_second": round(megabytes / seconds, 1),
        "driver_mb_above_start": round((memory.driver - before) / MB, 1),
        "worker_mb": round(memory.worker / MB, 1),
        "documents": sum(count.num_read for count in manifest.counts),
        "duplicates": sum(count.dropped.get("duplicate", 0) for count in manifest.counts),
        "shards": len(manifest.shards),
    }


class _Memory:
    """The most memory that was seen."""

    def __init__(self) -> None:
        self.driver = self.worker = 0

    def watch(self, ended: threading.Event) -> None:
        """Look until the work has ended."""
        own = psutil.Process()
        while not ended.wait(0.05):
            self.driver = max(self.driver, own.memory_full_info().uss)
            for process in psutil.process_iter():
                try:
                    if process.name().startswith("ray::") or "ray::" in " ".join(process.cmdline()[:1]):
                        self.worker = max(self.worker, process.memory_full_info().uss)
                except psutil.Error:
                    continue


def write_files(directory: Path, num_bytes: int, *, num_languages: int, num_files: int) -> None:
    """Write files of JSON lines of about 1,000 bytes of text each, their languages in turn."""
    directory.mkdir(parents=True)
    chosen = random.Random(1)
    words = [
        "".join(chosen.choices("abcdefghijklmnopqrstuvwxyzäéöあいう", k=chosen.randint(2, 9))) for _ in range(20_000)
    ]
    languages = [f"x-l{i}" for i in range(num_languages)]
    number = 0
    for i in range(num_files):
        with (directory / f"{i:06d}.jsonl").open("w", encoding="utf-8") as file:
            written = 0
            while written < num_bytes / num_files:
                number += 1
                seed = number - 1 if number % 20 == 0 else number  # every twentieth text is the one before it again
                text = " ".join(random.Random(seed).choices(words, k=130))
                file.write(
                    json.dumps({"text": text, "language": languages[seed % num_languages]}, ensure_ascii=False) + "\n"
                )
                written += len(text.encode())


if __name__ == "__main__":
    main()
