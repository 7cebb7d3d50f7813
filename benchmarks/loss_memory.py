"""Measure memory and time of the chunked loss against those of computing the logits of all tokens at once.

    python benchmarks/loss_memory.py [--vocab 262144] [--tokens 1024] [--hidden 256] [--repeats 3] [--threads 1]
        [--precision float32]

It runs one output layer forward and backward, each way in a process of its own, and measures the peak of resident
memory above that of the inputs. It prints one JSON line for each way, then one with the ratios, chunked over plain.
"""

import argparse
import json
import multiprocessing
import resource
import time
from typing import Any

import torch
from torch.nn import functional as F

from training.network.head_loss import LossHead

UNIT = 1024  # ru_maxrss is in KiB on Linux


def main() -> None:
    """Run the benchmark."""
    options, found = _parse(), {}
    for way in ("plain", "chunked"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[way] = pool.apply(measure, (way, options))
        print(json.dumps({"way": way} | vars(options) | found[way]), flush=True)
    ratios = {key: round(value / found["plain"][key], 3) for key, value in found["chunked"].items()}
    print(json.dumps({"way": "chunked / plain"} | ratios))


def measure(way: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of the fastest pass, and the peak of memory above that before the first pass, in MiB."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.precision)
    layer = torch.nn.Linear(options.hidden, options.vocab, bias=False, dtype=dtype)
    hidden = torch.randn(options.tokens, options.hidden, dtype=dtype, requires_grad=True)
    targets = torch.randint(options.vocab, (options.tokens,))
    head: Any = LossHead(layer, softcap=None, z_weight=0.0, max_tokens=options.tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        if way == "plain":
            F.cross_entropy(layer(hidden).float(), targets, reduction="sum").backward()
        else:
            head(hidden, targets)[0].backward()
        seconds.append(time.perf_counter() - start)
        layer.zero_grad()
        hidden.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": round(min(seconds), 3), "peak_mib": round(peak * UNIT / 2**20)}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("vocab", 262_144), ("tokens", 1024), ("hidden", 256), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
