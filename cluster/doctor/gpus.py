"""Accelerators: what the driver says of them, and whether torch sees as many."""

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.host.programs import Answer, ask

FIELDS = (
    "index",
    "name",
    "driver_version",
    "memory.total",
    "memory.used",
    "temperature.gpu",
    "ecc.errors.uncorrected.volatile.total",
    "clocks_throttle_reasons.active",
)
"""What `nvidia-smi --query-gpu` is asked (nvidia-smi --help-query-gpu)."""

HOT_CELSIUS = 85
BUSY_SHARE = 0.1

THROTTLES = {0x8: "hardware slow-down", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
"""Bits of the reasons why clocks are low that say that something is wrong (nvml.h, nvmlClocksEventReason*)."""

FATAL_XIDS = frozenset({48, 64, 74, 79, 95, 119, 120, 140})
"""Double-bit ECC, failed remapping, NVLink, fallen off the bus, uncontained ECC, GSP: the GPU needs a reset or a
repair (docs.nvidia.com/deploy/xid-errors). Most others are a program's own fault."""

_COUNT = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True)
class Gpu:
    """One GPU, as nvidia-smi describes it; None is what it does not say."""

    index: int
    name: str
    driver: str
    total_mib: int | None
    used_mib: int | None
    celsius: int | None
    num_uncorrected: int | None
    throttled: int


def gpu_findings(*, wanted: bool, quick: bool) -> list[Finding]:
    """Checks of this node's GPUs. `wanted`: Ray, or the cluster file, says that there are some."""
    if shutil.which("nvidia-smi"):
        return _nvidia(wanted=wanted, quick=quick)
    if shutil.which("rocm-smi"):
        return _rocm(quick=quick)
    if wanted:
        return [fail("GPUs", "neither nvidia-smi nor rocm-smi is there", fix="install the driver of the GPUs")]
    return [ok("GPUs", "none, and none asked for")]


def read_gpus(text: str) -> list[Gpu]:
    """What nvidia-smi prints for FIELDS as CSV without header and units."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return [
        Gpu(
            index=int(row[0]),
            name=row[1],
            driver=row[2],
            total_mib=_number(row[3]),
            used_mib=_number(row[4]),
            celsius=_number(row[5]),
            num_uncorrected=_number(row[6]),
            throttled=int(row[7], 16) if row[7].startswith("0x") else 0,
        )
        for row in rows
    ]


def health_findings(gpus: list[Gpu]) -> list[Finding]:
    """What is wrong with GPUs, or one finding that all is well."""
    found = [finding for gpu in gpus for finding in _health(gpu)]
    return found or [ok("GPU health", "no uncorrected ECC errors, no throttling, memory free")]


def xid_findings(log: str) -> list[Finding]:
    """Errors that the driver has written into the kernel's log since boot."""
    fatal = [
        line for line in log.splitlines() if int((re.findall(r"NVRM: Xid.*?: (\d+)", line) or [0])[0]) in FATAL_XIDS
    ]
    if not fatal:
        return []
    fix = "nvidia-smi -r (as root, with nothing running), or reboot; if it comes back, have the GPU repaired"
    return [fail("GPU errors", f"{len(fatal)} fatal in the kernel's log, the last: {fatal[-1].strip()[:200]}", fix=fix)]


def _nvidia(*, wanted: bool, quick: bool) -> list[Finding]:
    answer = ask(["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"])
    if not answer.fine:
        fix = "reboot after an update of the driver, or install it anew; nvidia-smi must list the GPUs"
        seen = f"nvidia-smi: {answer.last_line}"
        return [fail("GPUs", seen, fix=fix) if wanted else warn("GPUs", seen, fix=fix)]
    gpus = read_gpus(answer.text)
    kinds = ", ".join(sorted({gpu.name for gpu in gpus}))
    drivers = ", ".join(sorted({gpu.driver for gpu in gpus}))
    there = ok("GPUs", f"{len(gpus)} ({kinds}), driver {drivers}")
    torch = [] if quick else [_torch_sees(len(gpus))]
    log = ask(["dmesg"])
    return [there, *torch, *health_findings(gpus), *(xid_findings(log.text) if log.fine else [])]


def _rocm(*, quick: bool) -> list[Finding]:
    answer = ask(["rocm-smi", "--showproductname", "--showdriverversion", "--json"])
    if not answer.fine:
        return [
            fail("GPUs", f"rocm-smi: {answer.last_line}", fix="install the driver anew; rocm-smi must list the GPUs")
        ]
    cards = [name for name in json.loads(answer.text) if name.startswith("card")]
    return [ok("GPUs", f"{len(cards)} by rocm-smi"), *([] if quick else [_torch_sees(len(cards))])]


def _torch_sees(number: int) -> Finding:
    hidden = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # Ray sets them for its workers
    answer: Answer = ask(
        [sys.executable, "-c", _COUNT],
        seconds=60,
        environment={name: value for name, value in os.environ.items() if name not in hidden},
    )
    if answer.fine and answer.text == str(number):
        return ok("torch and GPUs", f"torch sees all {number}")
    return fail(
        "torch and GPUs",
        f"torch sees {answer.text if answer.fine else answer.last_line} of {number}",
        fix="install the build of torch for this driver (pytorch.org, Get Started), or a newer driver",
    )


def _health(gpu: Gpu) -> list[Finding]:
    who, found = f"GPU {gpu.index}", []
    if gpu.num_uncorrected:
        fix = f"nvidia-smi -r -i {gpu.index} (as root, with nothing running); if they come back, have it repaired"
        found.append(fail("GPU health", f"{who}: {gpu.num_uncorrected} uncorrected ECC errors", fix=fix))
    reasons = [word for bit, word in THROTTLES.items() if gpu.throttled & bit]
    if reasons or (gpu.celsius or 0) >= HOT_CELSIUS:
        seen = f"{who}: {gpu.celsius} °C, clocks lowered by {', '.join(reasons) or 'nothing yet'}"
        found.append(warn("GPU health", seen, fix="look to the cooling and the power supply of the node"))
    if gpu.total_mib and gpu.used_mib is not None and gpu.used_mib > BUSY_SHARE * gpu.total_mib:
        seen = f"{who}: {gpu.used_mib:,} MiB of {gpu.total_mib:,} in use"
        found.append(warn("GPU health", seen, fix="end what else runs on it (nvidia-smi lists it)"))
    return found


def _number(cell: str) -> int | None:
    return int(cell) if cell.isdecimal() else None  # `[N/A]` where a GPU does not know
