"""How well a step is shared among unlike devices, and how long sharing it takes. Pure; nothing is measured on devices.

    python benchmarks/unlike_plan.py

Four types with the speeds of an H100, an A100, an L40S and a V100 (9,000, 4,000, 2,200 and 1,100 tokens a second at
4,096 tokens a sequence, 0.05 s a pass beside, 0.08 s on the last), of whose memory 8, 8, 4 and 2 sequences a pass fit;
128 devices; 0.3 s of exchange in a pass. eta is G / (seconds of a step * sum of the devices' own rates).
"""

import argparse
import json
from collections.abc import Sequence
from math import ceil
from time import perf_counter

from training.allocation.bottleneck import allocate_bottleneck
from training.allocation.choice import Candidate, allocate_evenly
from training.allocation.cover import allocate_cover
from training.allocation.devices import DeviceType, sum_of_rates

RATES, LIMITS, BESIDE = (9000, 4000, 2200, 1100), (8, 8, 4, 2), (0.05, 0.05, 0.05, 0.08)
SEQUENCE_LENGTH, EXCHANGE_SECONDS = 4096, 0.3
ISLAND = (64, 32, 16, 16)
"""128 devices, the fastest first."""


def make_types(numbers: Sequence[int]) -> list[DeviceType]:
    """Return so many devices of each type; beyond four again the same speeds, 7% lower each time."""
    found = []
    for place, number in enumerate(numbers):
        kind, again = place % len(RATES), place // len(RATES)
        seconds = SEQUENCE_LENGTH / RATES[kind] * 1.07**again
        times = tuple(BESIDE[kind] + seconds * size for size in range(1, LIMITS[kind] + 1))
        found.append(DeviceType(f"type-{place}", number, times))
    return found


def equal_pass_seconds(types: Sequence[DeviceType], num_sequences: int) -> float:
    """Return the least time of a step of passes that are all alike, as Poplar searches them (arXiv 2408.12596)."""
    found = []
    for limit in sorted({seconds for one in types for seconds in one.pass_seconds}):
        in_pass = sum(one.number * sum(seconds <= limit for seconds in one.pass_seconds) for one in types)
        if in_pass:
            found.append(ceil(num_sequences / in_pass) * max(limit, EXCHANGE_SECONDS))
    return min(found)


def compare(per_device: int) -> None:
    """Print eta of the ways to share a step of so many sequences a device."""
    types = make_types(ISLAND)
    num_sequences = per_device * sum(ISLAND)
    limit = num_sequences / sum_of_rates(types)

    def cover(*, overlaps: bool) -> float:
        return allocate_cover(types, num_sequences, pass_seconds=EXCHANGE_SECONDS, overlaps=overlaps).seconds

    most = min(len(one.pass_seconds) for one in types)
    everything = tuple(range(len(types)))
    once = Candidate(everything, tuple(types), 1)
    every = Candidate(everything, tuple(types), 3, pass_seconds=EXCHANGE_SECONDS)
    ways = {
        "bottleneck": allocate_bottleneck(types, num_sequences).seconds,
        "cover": cover(overlaps=True),
        "cover, no overlap": cover(overlaps=False),
        "equal passes": equal_pass_seconds(types, num_sequences),
        "even split": allocate_evenly(once, num_sequences, most=most).seconds,
        "even split, exchange in passes": allocate_evenly(every, num_sequences, most=most).seconds,
    }
    told = {name: {"seconds": round(seconds, 4), "eta": round(limit / seconds, 4)} for name, seconds in ways.items()}
    print(json.dumps({"sequences_a_device": per_device, "limit_seconds": round(limit, 4)} | told), flush=True)


def time_planning(name: str, numbers: Sequence[int], per_device: int, *, in_passes: bool) -> None:
    """Print how long it takes to share a step among so many devices, and how close to the least that is."""
    types, num_sequences = make_types(numbers), per_device * sum(numbers) + 1
    start = perf_counter()
    if in_passes:
        found = allocate_cover(types, num_sequences, pass_seconds=EXCHANGE_SECONDS)
    else:
        found = allocate_bottleneck(types, num_sequences)
    took = perf_counter() - start
    told = {"planning": name, "devices": sum(numbers), "types": len(types), "sequences": num_sequences}
    told |= {"planning_seconds": round(took, 4), "eta": round(found.eta, 4)}
    print(json.dumps(told | {"above_the_least_at_most": round(found.seconds / found.bound - 1, 6)}), flush=True)


def main() -> None:
    """Compare the ways to share a step, and time them at full size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, nargs="*", default=[4, 8, 16, 32], help="a device and step")
    for per_device in parser.parse_args().sequences:
        compare(per_device)
    large = (40_009, 20_011, 10_007, 10_009, 5_003, 5_009, 5_011, 4_941)
    time_planning("bottleneck", large, 16, in_passes=False)
    time_planning("cover", large, 16, in_passes=True)
    time_planning("cover", (5_001, 2_503, 1_249, 1_247), 4, in_passes=True)
    time_planning("cover", (5_001, 2_503, 1_249, 1_247), 16, in_passes=True)


if __name__ == "__main__":
    main()
