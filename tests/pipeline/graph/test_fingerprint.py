import math
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.graph.fingerprint import fingerprint

BASE = {
    "stage": "train",
    "version": 1,
    "config": {"a": 1, "b": [1.5, None, {"c": "x"}]},
    "inputs": {"tokens": "f" * 64},
    "observed": {"f.txt": "0"},
}


def test_a_fingerprint_is_a_sha256_in_hex():
    assert len(fingerprint(**BASE)) == 64
    int(fingerprint(**BASE), 16)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "tune"},
        {"version": 2},
        {"config": {"a": 2, "b": [1.5, None, {"c": "x"}]}},
        {"config": {"a": 1, "b": [None, 1.5, {"c": "x"}]}},
        {"config": {"a": "1", "b": [1.5, None, {"c": "x"}]}},
        {"config": {"a": True, "b": [1.5, None, {"c": "x"}]}},
        {"config": {"b": [1.5, None, {"c": "x"}]}},
        {"inputs": {"tokens": "e" * 64}},
        {"inputs": {"corpus": "f" * 64}},
        {"observed": {"f.txt": "1"}},
        {"observed": None},
    ],
)
def test_whatever_decides_the_output_is_in_the_fingerprint(change):
    assert fingerprint(**BASE | change) != fingerprint(**BASE)


def test_the_order_of_keys_is_not_in_the_fingerprint():
    reordered = {"config": {"b": [1.5, None, {"c": "x"}], "a": 1}}
    assert fingerprint(**BASE | reordered) == fingerprint(**BASE)


def test_a_tuple_and_a_list_are_the_same():
    assert fingerprint(**BASE | {"observed": (1, 2)}) == fingerprint(**BASE | {"observed": [1, 2]})


def test_another_process_with_another_hash_seed_gives_the_same_fingerprint():
    program = f"from pipeline.graph.fingerprint import fingerprint; print(fingerprint(**{BASE!r}))"
    root = Path(__file__).parents[3]
    env = {"PYTHONHASHSEED": "4711"}
    printed = subprocess.run([sys.executable, "-c", program], cwd=root, env=env, capture_output=True, text=True)
    assert printed.stdout.strip() == fingerprint(**BASE)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1, 2}, frozenset(), object(), b"bytes", Path("p"), {1: "a"}, print]
)
def test_what_has_no_stable_text_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match=r"^train\.config\.model\[1\]"):
        fingerprint(**BASE | {"config": {"model": [0, value]}})
