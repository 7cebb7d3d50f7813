"""GPUs: what their driver says of them, and whether torch sees as many."""

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass

from cluster.doctor.report import Finding, fail, ok, warn
from cluster.host.programs import run_program

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
"""Fields of `nvidia-smi --query-gpu` (nvidia-smi --help-query-gpu)."""

HOT_CELSIUS = 85
BUSY_SHARE = 0.1
"""A GPU counts as in use if more than this share of its memory is."""

THROTTLES = {0x8: "hardware slow-down", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
"""Bits of the reasons why clocks are low that say that something is wrong (nvml.h, nvmlClocksEventReason*)."""

FATAL_XIDS = frozenset({48, 64, 74, 79, 95, 119, 120, 140})
"""Double-bit ECC, failed remapping, NVLink, fallen off the bus, uncontained ECC, GSP: the GPU needs a reset or a
repair (docs.nvidia.com/deploy/xid-errors). Most others are a program's own fault."""

_TORCH_SECONDS = 60.0
_COUNT = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True)
class Gpu:
    """One GPU, as nvidia-smi describes it; a field is None where it does not say."""

    index: int
    name: str
    driver_version: str
    total_mib: int | None
    used_mib: int | None
    celsius: int | None
    num_uncorrected_errors: int | None
    throttled: int
    """Bits of the reasons why its clocks are low."""


def gpu_findings(*, wanted: bool, quick: bool) -> list[Finding]:
    """Check this node's GPUs. `wanted` means that there are some, by Ray or by the cluster file."""
    if shutil.which("nvidia-smi"):
        return _nvidia_findings(wanted=wanted, quick=quick)
    if shutil.which("rocm-smi"):
        return _rocm_findings(quick=quick)
    if wanted:
        return [fail("GPUs", "neither nvidia-smi nor rocm-smi is there", fix="install the driver of the GPUs")]
    return [ok("GPUs", "none, and none asked for")]


def parse_gpus(text: str) -> list[Gpu]:
    """Parse what nvidia-smi prints for FIELDS as CSV without header and units."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return [
        Gpu(
            index=int(row[0]),
            name=row[1],
            driver_version=row[2],
            total_mib=_number(row[3]),
            used_mib=_number(row[4]),
            celsius=_number(row[5]),
            num_uncorrected_errors=_number(row[6]),
            throttled=int(row[7], 16) if row[7].startswith("0x") else 0,
        )
        for row in rows
    ]


def health_findings(gpus: list[Gpu]) -> list[Finding]:
    """Return what is wrong with GPUs, or one finding that all is well."""
    found = [finding for gpu in gpus for finding in _gpu_findings(gpu)]
    return found or [ok("GPU health", "no uncorrected ECC errors, no throttling, memory free")]


def xid_findings(log: str) -> list[Finding]:
    """Find the fatal errors that the driver has written into the kernel's log since boot."""
    fatal = [
        line for line in log.splitlines() if int((re.findall(r"NVRM: Xid.*?: (\d+)", line) or [0])[0]) in FATAL_XIDS
    ]
    if not fatal:
        return []
    fix = "nvidia-smi -r (as root, with nothing running), or reboot; if it comes back, have the GPU repaired"
    return [fail("GPU errors", f"{len(fatal)} fatal in the kernel's log, the last: {fatal[-1].strip()[:200]}", fix=fix)]


def _nvidia_findings(*, wanted: bool, quick: bool) -> list[Finding]:
    result = run_program(["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"])
    if not result.ok:
        fix = "reboot after an update of the driver, or install it anew; nvidia-smi must list the GPUs"
        seen = f"nvidia-smi: {result.last_line}"
        return [fail("GPUs", seen, fix=fix) if wanted else warn("GPUs", seen, fix=fix)]
    gpus = parse_gpus(result.output)
    kinds = ", ".join(sorted({gpu.name for gpu in gpus}))
    drivers = ", ".join(sorted({gpu.driver_version for gpu in gpus}))
    found = ok("GPUs", f"{len(gpus)} ({kinds}), driver {drivers}")
    torch = [] if quick else [_torch_finding(len(gpus))]
    log = run_program(["dmesg"])
    return [found, *torch, *health_findings(gpus), *(xid_findings(log.output) if log.ok else [])]


def _rocm_findings(*, quick: bool) -> list[Finding]:
    result = run_program(["rocm-smi", "--showproductname", "--showdriverversion", "--json"])
    if not result.ok:
        return [
            fail("GPUs", f"rocm-smi: {result.last_line}", fix="install the driver anew; rocm-smi must list the GPUs")
        ]
    cards = [name for name in json.loads(result.output) if name.startswith("card")]
    return [ok("GPUs", f"{len(cards)} by rocm-smi"), *([] if quick else [_torch_finding(len(cards))])]


def _torch_finding(number: int) -> Finding:
    """Check that torch sees `number` GPUs."""
    hidden = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # Ray sets them for its workers
    result = run_program(
        [sys.executable, "-c", _COUNT],
        timeout_seconds=_TORCH_SECONDS,
        environment={name: value for name, value in os.environ.items() if name not in hidden},
    )
    if result.ok and result.output == str(number):
        return ok("torch and GPUs", f"torch sees all {number}")
    return fail(
        "torch and GPUs",
        f"torch sees {result.output if result.ok else result.last_line} of {number}",
        fix="install the build of torch for this driver (pytorch.org, Get Started), or a newer driver",
    )


def _gpu_findings(gpu: Gpu) -> list[Finding]:
    name, found = f"GPU {gpu.index}", []
    if gpu.num_uncorrected_errors:
        fix = f"nvidia-smi -r -i {gpu.index} (as root, with nothing running); if they come back, have it repaired"
        found.append(fail("GPU health", f"{name}: {gpu.num_uncorrected_errors} uncorrected ECC errors", fix=fix))
    reasons = [word for bit, word in THROTTLES.items() if gpu.throttled & bit]
    if reasons or (gpu.celsius or 0) >= HOT_CELSIUS:
        seen = f"{name}: {gpu.celsius} °C, clocks lowered by {', '.join(reasons) or 'nothing yet'}"
        found.append(warn("GPU health", seen, fix="look to the cooling and the power supply of the node"))
    if gpu.total_mib and gpu.used_mib is not None and gpu.used_mib > BUSY_SHARE * gpu.total_mib:
        seen = f"{name}: {gpu.used_mib:,} MiB of {gpu.total_mib:,} in use"
        found.append(warn("GPU health", seen, fix="end what else runs on it (nvidia-smi lists it)"))
    return found


def _number(cell: str) -> int | None:
    return int(cell) if cell.isdecimal() else None  # `[N/A]` where a GPU does not know
