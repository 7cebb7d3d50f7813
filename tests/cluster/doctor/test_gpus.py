"""GPUs, by what fake tools say of them."""

import pytest

from cluster.doctor.gpus import gpu_findings, xid_findings
from tests.cluster.doctor.fakes import only_programs

GOOD = "0, NVIDIA H100 80GB HBM3, 570.86.15, 81559, 512, 41, 0, 0x0000000000000000"


def levels(monkeypatch, directory, line, *, dmesg="exit 1"):
    programs = {"nvidia-smi": f"echo '{line}'", "dmesg": dmesg}
    only_programs(monkeypatch, directory, programs)
    return {finding.check: finding for finding in gpu_findings(wanted=True, quick=True)}


def test_good_gpus_are_fine(tmp_path, monkeypatch):
    found = levels(monkeypatch, tmp_path, GOOD)
    assert {finding.level for finding in found.values()} == {"OK"}
    assert found["GPUs"].seen == "1 (NVIDIA H100 80GB HBM3), driver 570.86.15"


@pytest.mark.parametrize(
    ("cells", "level", "words"),
    [
        ("512, 41, 3, 0x0", "FAIL", "3 uncorrected ECC"),
        ("512, 91, 0, 0x0", "WARN", "91 °C"),
        ("512, 41, [N/A], 0x40", "WARN", "heat (hardware)"),
        ("40000, 41, 0, 0x1", "WARN", "40,000 MiB"),
    ],
)
def test_a_gpu_that_is_ill_hot_or_busy_is_told(tmp_path, monkeypatch, cells, level, words):
    found = levels(monkeypatch, tmp_path, f"0, NVIDIA H100 80GB HBM3, 570.86.15, 81559, {cells}")
    assert found["GPU health"].level == level
    assert words in found["GPU health"].seen


def test_no_driver_fails_where_gpus_are_wanted(tmp_path, monkeypatch):
    only_programs(monkeypatch, tmp_path, {})
    assert [finding.level for finding in gpu_findings(wanted=True, quick=True)] == ["FAIL"]
    assert [finding.level for finding in gpu_findings(wanted=False, quick=True)] == ["OK"]
    only_programs(monkeypatch, tmp_path, {"nvidia-smi": "echo 'Driver/library version mismatch' >&2; exit 18"})
    (finding,) = gpu_findings(wanted=True, quick=True)
    assert "version mismatch" in finding.seen


def test_only_errors_of_the_gpu_itself_count():
    own = "[1] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus."
    program = "[2] NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=python, MMU Fault"
    assert xid_findings(f"{program}\nusb 1-1: new device: 79 things\n") == []
    (finding,) = xid_findings(f"{own}\n{program}\n")
    assert finding.level == "FAIL"
    assert "fallen off" in finding.seen


def test_errors_in_the_kernels_log_are_found(tmp_path, monkeypatch):
    found = levels(monkeypatch, tmp_path, GOOD, dmesg="echo 'NVRM: Xid (PCI:0000:3b:00): 48, DBE'")
    assert found["GPU errors"].level == "FAIL"
