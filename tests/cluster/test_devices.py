"""The table of GPUs."""

import pytest

from cluster.devices import (
    DEVICES,
    capability_by_ray_name,
    device_by_driver_name,
    devices_by_ray_name,
    memory_bytes_by_ray_name,
    peak_flops,
)
from configs.base import MIB
from configs.pools import maker_of


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362.05e12),
        ("Tesla V100-SXM2-32GB", 15.7e12),
        ("AMD Instinct MI250X", 191.5e12),
        ("NVIDIA B300 SXM6 AC", 2250e12),
    ],
)
def test_a_device_in_the_table_has_its_peak(name: str, peak: float) -> None:
    assert peak_flops(name) == peak


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cpu",
        "NVIDIA",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM-64GB",
        "NVIDIA A10G",
        "Tesla T4",
    ],
)
def test_a_device_that_only_sounds_like_one_in_the_table_has_no_peak(name: str) -> None:
    assert peak_flops(name) is None


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        ("H100", 81101),
        ("A100", 40960),
        ("A100-80G", 81920),
        ("L4", 23034),
        ("A10G", 23028),
        ("T4", 15360),
        ("V100", 16384),
    ],
)
def test_memory_is_what_the_driver_says_and_of_one_ray_name_the_smallest(name: str, mib: int) -> None:
    assert memory_bytes_by_ray_name(name) == mib * MIB


def test_a_name_that_is_not_in_the_table_is_unknown_everywhere() -> None:
    assert memory_bytes_by_ray_name("K80") is memory_bytes_by_ray_name(None) is device_by_driver_name("K80") is None
    assert devices_by_ray_name("K80") == devices_by_ray_name(None) == []


def test_no_driver_name_stands_twice() -> None:
    names = [name for device in DEVICES for name in device.driver_names]
    assert len(set(names)) == len(names)


def test_rays_names_are_rays() -> None:
    """Each device has the name that Ray derives from the driver's, and else only names that Ray lists."""
    accelerators = pytest.importorskip("ray.util.accelerators.accelerators")
    known = {value for value in vars(accelerators).values() if isinstance(value, str)}
    derive = pytest.importorskip("ray._private.accelerators.nvidia_gpu").NvidiaGPUAcceleratorManager
    for device in DEVICES:
        if device.driver_names[0].startswith("AMD"):
            assert set(device.ray_names) <= known, device
            continue
        derived = {derive._gpu_name_to_accelerator_type(name) for name in device.driver_names}
        assert derived <= set(device.ray_names) <= known | derived, device


def test_every_kind_of_nvidias_since_v100_has_its_capability() -> None:
    names = {name for device in DEVICES for name in device.ray_names if maker_of(name) == "NVIDIA"}
    assert {name for name in names if capability_by_ray_name(name) is None} == set()
