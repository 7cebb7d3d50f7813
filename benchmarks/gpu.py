"""Measure Concord on one GPU inside 8 minutes, without Ray, and check it against plain PyTorch; or try that on a CPU.

    python benchmarks/gpu.py missing                                  # what this machine lacks, and how to fetch it
    python benchmarks/gpu.py run [--wheels DIR] [--tiny] [--only PART ...] [--out FILE]

`missing` needs the standard library alone. The wheels that it names are fetched elsewhere, for CPython 3.12, and
carried to a machine that has PyTorch, transformers, sentencepiece and Triton; `run --wheels DIR` installs them into a
temporary directory first. Each part of `run` has a process and a time limit of its own, and prints one JSON line as it
ends, so that a run that is cut off has told what it found; --out has the same lines. --tiny runs everything with tiny
models, in one to three minutes on two CPU cores.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NEEDED = (
    *("annotated-types", "einops", "eld", "hjson", "jinja2", "markupsafe", "msgpack", "networkx", "ninja", "numpy"),
    *("packaging", "psutil", "py-cpuinfo", "pydantic", "pydantic-core", "pyyaml", "rich", "safetensors", "scipy"),
    *("scikit-learn", "sentencepiece", "sympy", "tokenizers", "torch", "tqdm", "transformers", "triton"),
    *("typing-extensions", "typing-inspection", "xxhash", "zstandard"),
)
"""What the run imports, beside DeepSpeed, with what those import: the text of the smoke recipe among it. Not needed are
Ray, datasets, wandb and lm-eval, without which the smoke recipe asks no questions."""

DEEPSPEED = "deepspeed"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
TOTAL_SECONDS = 480.0
_SCRATCH, _SCRATCH_BYTES = Path("/dev/shm"), 48 << 30
"""Checkpoints of a billion parameters are written twice: to memory where it has so much room, since the disk's speed is
measured by a part of its own."""

SYLLABLES = (
    "ba",
    "de",
    "fu",
    "go",
    "hi",
    "ja",
    "ke",
    "lo",
    "mu",
    "na",
    "po",
    "qui",
    "ra",
    "se",
    "ti",
    "vo",
    "wa",
    "xe",
)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("missing")
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--wheels", type=Path)
    run_parser.add_argument("--tiny", action="store_true")
    run_parser.add_argument("--only", nargs="+", metavar="PART", help=f"of {', '.join(parts(tiny=False))}")
    run_parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.command == "missing":
        print_missing()
        return
    if unknown := set(options.only or ()) - parts(tiny=options.tiny).keys():
        run_parser.error(f"there is no part {sorted(unknown)[0]!r}; there are {', '.join(parts(tiny=options.tiny))}")
    if options.wheels is not None:
        install(options.wheels)
    sys.exit(run(tiny=options.tiny, only=options.only, out=options.out))


# what is missing


def print_missing() -> None:
    """Print which of our dependencies this machine lacks, and the commands that fetch what `run` needs of them."""
    pins = read_pins()
    for name in declared():
        needed = "needed" if name in (*NEEDED, DEEPSPEED) else "not needed here"
        print(f"{name:<20} {installed(name) or 'MISSING':<20} {needed}")
    lacking = [name for name in NEEDED if installed(name) is None]
    print("\nFetch the wheels where there is a package index, outside of any checkout:\n")
    if lacking:
        platforms = " ".join(f"--platform {name}" for name in PLATFORMS)
        names = " ".join(f"{name}=={pins[name]}" if name in pins else name for name in lacking)
        print(
            "python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "
            f"{platforms} -d wheels {names}"
        )
    if installed(DEEPSPEED) is None:  # the index has its source only, which is pure Python without its kernels
        print(f"DS_BUILD_OPS=0 python3 -m pip wheel --no-deps {DEEPSPEED}=={pins[DEEPSPEED]} -w wheels")
    if not lacking and installed(DEEPSPEED) is not None:
        print("nothing: run `python3 benchmarks/gpu.py run`")


def declared() -> list[str]:
    """Return the names of the dependencies that pyproject.toml declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for key in ("eval", "sample") for name in project["optional-dependencies"][key]]
    names = [re.split(r"[\[<>=!~ ]", text)[0] for text in (*project["dependencies"], *extras)]
    return sorted({*names, *NEEDED})


def read_pins() -> dict[str, str]:
    """Return the versions that constraints.txt pins, by name; those of PyTorch's own wheels have no local part."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.replace("_", "-").lower(): number.split(";")[0].split("+")[0].strip() for name, number in pairs}


def installed(name: str) -> str | None:
    """Return the version of a package that is installed here, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def install(wheels: Path) -> None:
    """Install wheels into a temporary directory, which this process and its children import from."""
    site = tempfile.mkdtemp(prefix="concord-wheels-")
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        sys.exit(f"there is no wheel in {wheels}; `missing` prints the commands that fetch them")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", site]
    subprocess.run([*pip, *files], check=True)
    sys.path.insert(1, site)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), site, *filter(None, [os.environ.get("PYTHONPATH")])])


# the parts


def run(*, tiny: bool, only: list[str] | None, out: Path | None) -> int:
    """Run the parts, print a JSON line for each, and return 1 if a check of any failed."""
    from training.conform.facts import describe_host, versions
    from training.conform.run_checks import find_machine, run_work
    from training.conform.scale import choose_scale

    start, failed = time.monotonic(), False
    with tempfile.TemporaryDirectory(dir=scratch(tiny=tiny)) as directory:
        facts = find_machine(Path(directory))
        kind, memory = facts.device.type, facts.device.memory_bytes
        scale = choose_scale(kind, memory_bytes=memory, has_bf16=facts.has_bf16, quick=tiny)
        machine = {"device": facts.device.model_dump(), "host": describe_host().model_dump(), "versions": versions()}
        report({"part": "machine", "seconds": round(time.monotonic() - start, 1), "scale": scale.name} | machine, out)
        for name, (seconds, work) in parts(tiny=tiny).items():
            if only is not None and name not in only:
                continue
            begun = time.monotonic()
            left = min(seconds, start + TOTAL_SECONDS - begun)
            checks = list(run_work(work, name, kind, scale, Path(directory), seconds=left, total_seconds=TOTAL_SECONDS))
            failed |= any(check.passed is False for check in checks)
            found = [check.model_dump(exclude_defaults=True) for check in checks]
            report({"part": name, "seconds": round(time.monotonic() - begun, 1), "checks": found}, out)
    report({"part": "all", "seconds": round(time.monotonic() - start, 1), "failed": failed}, out)
    return int(failed)


def report(line: dict[str, Any], out: Path | None) -> None:
    """Print a JSON line, and add it to the file `out`."""
    text = json.dumps(line)
    print(text, flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def scratch(*, tiny: bool) -> Path | None:
    """Return the directory to write into; None for the usual one."""
    if tiny or not _SCRATCH.is_dir():
        return None
    room = os.statvfs(_SCRATCH)
    return _SCRATCH if room.f_bavail * room.f_frsize >= _SCRATCH_BYTES else None


Work = Callable[..., Iterator[Any]]


def parts(*, tiny: bool) -> dict[str, tuple[float, Work]]:
    """Return the parts in their order, each with its time limit and its work, what matters most first."""
    return {
        "attention": (60.0, check),
        "step 0.3B": (90.0, partial(step, size="0.3B", tiny=tiny)),
        "step 1B": (100.0, partial(step, size="1B", tiny=tiny)),
        "smoke": (150.0, partial(smoke, tiny=tiny)),
        "checkpoint": (60.0, check_saving_on_disk),
        "memory": (60.0, check),
        "memory 1B": (60.0, partial(memory_1b, tiny=tiny)),
        "passes 0.3B": (60.0, partial(passes, tiny=tiny)),
        "gradients": (90.0, check),
        "resume": (45.0, check),
        "deterministic": (45.0, check),
        "compile": (90.0, check),
    }


def check(name: str, kind: str, scale: Any, directory: Path) -> Iterator[Any]:
    """Run the checks of `concord conform` of one kind."""
    from training.conform.run_checks import check_kind

    yield from check_kind(name, kind, scale, directory)


def check_saving_on_disk(name: str, kind: str, scale: Any, directory: Path) -> Iterator[Any]:
    """Measure a checkpoint in the usual temporary directory, which is on a disk."""
    with tempfile.TemporaryDirectory() as disk:
        yield from check(name, kind, scale, Path(disk))


def step(name: str, kind: str, scale: Any, directory: Path, *, size: str, tiny: bool) -> Iterator[Any]:
    """Time compiled steps at 4,096 tokens, in turns with a compiled bare loop."""
    from training.conform.speed import measure_speed
    from training.conform.synthetic_job import open_bench

    with open_bench(kind, scale, own_directory(directory, name)) as bench:
        yield from measure_speed(bench, trial(scale, size, tiny=tiny), name, compiled=True)


def memory_1b(name: str, kind: str, scale: Any, directory: Path, *, tiny: bool) -> Iterator[Any]:
    """Compare the peak memory of a model of 1.1B parameters with the predicted one."""
    from training.conform.memory import measure_memory
    from training.conform.synthetic_job import open_bench

    with open_bench(kind, scale, own_directory(directory, name)) as bench:
        yield from measure_memory(bench, trial(scale, "1B", tiny=tiny), name, stage=1)


def passes(name: str, kind: str, scale: Any, directory: Path, *, tiny: bool) -> Iterator[Any]:
    """Compare what passes take, by their sequences, with what is predicted."""
    from benchmarks.pass_profile import measure_passes
    from training.conform.synthetic_job import open_bench

    with open_bench(kind, scale, own_directory(directory, name)) as bench:
        yield from measure_passes(bench, trial(scale, "0.3B", tiny=tiny), name)


def trial(scale: Any, size: str, *, tiny: bool) -> Any:
    """Return the model and its steps: that of the scale where it is tiny."""
    from training.conform.scale import trial_0_3b, trial_1b

    if tiny:
        return scale.large
    return (trial_1b if size == "1B" else trial_0_3b)(scale.large.precision, rows=4)


def own_directory(directory: Path, name: str) -> Path:
    """Make an empty directory for a part."""
    own = directory / name.replace(" ", "-")
    own.mkdir()
    return own


def smoke(name: str, kind: str, scale: Any, directory: Path, *, tiny: bool) -> Iterator[Any]:
    """Make all of the smoke recipe in this process: corpus, tokenizer, training, evaluation, export, report."""
    from rich.console import Console

    from pipeline.recipe import read_recipe
    from pipeline.run import run_recipe
    from pipeline.store.artifact import read_record
    from training.conform.record import Check, judged

    own = own_directory(directory, name)
    recipe = tiny_recipe(own) if tiny else Path("smoke")
    overrides = [f"store={own / 'store'}"]
    if installed("lm-eval") is None and not tiny:
        overrides.append("steps.scores.config.tasks=[]")
    run_recipe(read_recipe(recipe, tuple(overrides)), "inline", Console(width=200))
    loaded = [library for library in ("ray", "wandb", "datasets", "lm_eval") if library in sys.modules]
    yield judged("smoke libraries", float(len(loaded)), limit=0.0, detail=f"loaded without need: {', '.join(loaded)}")
    records = [found for path in sorted((own / "store").iterdir()) if (found := read_record(path))]
    for found in sorted(records, key=lambda record: record.started):
        said = {key: value for key, value in found.manifest.items() if isinstance(value, int | float | str)}
        yield Check(name=f"smoke {found.step}", value=found.seconds, unit="s", detail=json.dumps(said)[:400])
    trained = next(found for found in records if found.stage == "train")
    first, last = trained.manifest["first_loss"], trained.manifest["final_loss"]
    assert isinstance(first, float) and isinstance(last, float)
    yield judged("smoke loss over first", last / first, limit=1.0, detail="the loss of the last steps has fallen")


def tiny_recipe(directory: Path) -> Path:
    """Write a corpus of made-up words and a recipe with every stage of the smoke recipe; return the recipe's path."""
    import random

    source, texts = random.Random(0), directory / "texts"
    texts.mkdir()
    for number in range(60):
        words = ["".join(source.choices(SYLLABLES, k=source.randint(1, 3))) for _ in range(120)]
        (texts / f"{number}.txt").write_text(" ".join(words) + ".\n", encoding="utf-8")
    recipe = (ROOT / "benchmarks" / "tiny.yaml").read_text(encoding="utf-8").replace("TEXTS", str(texts))
    path = directory / "tiny.yaml"
    path.write_text(recipe, encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
