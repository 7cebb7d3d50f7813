"""The one table of GPUs: their names with the driver and with Ray, memory, peak speed by precision, and bandwidth.

The driver's name is what torch.cuda.get_device_name() and nvidia-smi print. Ray's is the value of the node label
`ray.io/accelerator-type` (ray.util.accelerators), which a pool's `accelerator` names; Ray calls several devices by one
name, such as `A100` for both sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from configs.base import MIB

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True)
class Links:
    """How fast a GPU exchanges data, in GB/s in one direction: half of what data sheets give for both."""

    gpus: float
    """With the other GPUs of its machine together: by NVLink, Infinity Fabric or PCIe."""

    host: float
    """With its host."""

    network_share: float | None = None
    """Its share of the network of the maker's reference machine; None where there is none with this GPU."""


# PCIe with 16 lanes of 8, 16 and 32 GT/s, of which 128/130 are data.
_PCIE_3, _PCIE_4, _PCIE_5 = Links(15.75, 15.75), Links(31.5, 31.5), Links(63, 63)
# NVLink from the data sheets of the GPUs; 8 ConnectX-6 of 200 Gbit/s in a DGX A100, 8 ConnectX-7 of 400 in a DGX H100,
# H200, B200, 8 ConnectX-8 of 800 in a DGX B300, 4 of 400 in a GB200 board; 4 of 100 in a DGX-1 of 8 V100.
_HGX_V100, _HGX_A100, _HGX_H100 = Links(150, 15.75, 6.25), Links(300, 31.5, 25), Links(450, 63, 50)
_HGX_H800, _HGX_A800 = Links(200, 63, 50), Links(200, 31.5, 25)
_HGX_B200, _HGX_B300, _GB200, _GH200 = Links(900, 63, 50), Links(900, 63, 100), Links(900, 225, 50), Links(450, 450, 50)
_MI300 = Links(448, 63, 50)  # seven links of 64 GB/s each way; 8 NICs of 400 Gbit/s
_MI200 = Links(150, 31.5, 12.5)  # three links of 50 GB/s each way between modules; 4 NICs of 200 for 8 in Frontier

_AMPERE = (0.35, 0.65)
_H100_MIB = 81101
"""nvidia-smi prints 81,559 MiB, of which the driver keeps some: CUDA gives a process 79.2 GiB."""


@dataclass(frozen=True)
class Device:
    """One kind of GPU."""

    driver_names: tuple[str, ...]
    """Whole names: a slice of a GPU (MIG), a laptop's or an export model has the name of another GPU within its own."""

    peak_flops: Mapping[Precision, float]
    """Dense FLOP/s with fp32 accumulation, from the makers' data sheets; where one gives only the figure with
    sparsity, half of it. In fp32 only where there is no bf16 in hardware. Empty where none was found."""

    memory_mib: int | None = None
    """Total memory as the driver says it: nvidia-smi, for AMD's rocm-smi. None where that was not found."""

    ray_names: tuple[str, ...] = ()
    memory_gb_per_second: float | None = None
    """Bandwidth of its memory in GB/s, from the data sheets."""

    links: Links | None = None
    """None where that was not found."""

    reached: tuple[float, float] = (0.25, 0.50)
    """Shares of the peak, a low and a high one, that training reaches between waits for other ranks: published ones of
    dense models of 1 to 8 billion parameters, 33 to 54% on H100 and H200, 39 to 64% on A100 (docs/planning.md)."""


def _bf16(flops: float) -> Mapping[Precision, float]:
    return {"bf16": flops}


def _fp32(flops: float) -> Mapping[Precision, float]:
    return {"fp32": flops}


DEVICES: tuple[Device, ...] = (
    # Of several devices with one of Ray's names the first is the commonest.
    # 36 PFLOPS sparse for 8 B300, 360 for the 72 of a GB200 NVL72
    Device(("NVIDIA B300 SXM6 AC", "NVIDIA B300"), _bf16(2250e12), 275040, ("B300",), 8000, _HGX_B300),
    Device(("NVIDIA GB300",), {}, None, ("GB300",), 8000, _GB200),
    Device(("NVIDIA GB200",), _bf16(2500e12), 189471, ("GB200",), 8000, _GB200),
    Device(("NVIDIA B200",), _bf16(2250e12), 183359, ("B200",), 8000, _HGX_B200),  # HGX B200: 36 PFLOPS sparse for 8
    Device(("NVIDIA GH200 480GB", "NVIDIA GH200 120GB"), _bf16(989e12), 97871, ("GH200",), 4000, _GH200),
    Device(("NVIDIA GH200 144G HBM3e",), _bf16(989e12), None, ("GH200",), 4900, _GH200),
    Device(("NVIDIA H200",), _bf16(989e12), 143771, ("H200",), 4800, _HGX_H100),  # SXM: 1,979 sparse
    Device(("NVIDIA H200 NVL",), _bf16(835.5e12), 143771, ("H200",), 4800, _PCIE_5),  # 1,671 sparse
    Device(("NVIDIA H100 80GB HBM3",), _bf16(989e12), _H100_MIB, ("H100",), 3350, _HGX_H100),  # SXM: 1,979 sparse
    Device(("NVIDIA H100 NVL",), _bf16(835.5e12), 95830, ("H100",), 3900, _PCIE_5),  # 1,671 sparse
    Device(("NVIDIA H100 PCIe",), _bf16(756e12), _H100_MIB, ("H100",), 2000, _PCIE_5),  # 1,513 sparse
    Device(("NVIDIA H800",), _bf16(989e12), _H100_MIB, ("H800",), 3350, _HGX_H800),  # SXM: 1,979 sparse
    Device(("NVIDIA H800 PCIe",), _bf16(756e12), _H100_MIB, ("H800",), 2000, _PCIE_5),
    Device(("NVIDIA H20",), _bf16(148e12), 97871, ("H20",), 4000, _HGX_H100),
    Device(("NVIDIA A100-SXM4-40GB",), _bf16(312e12), 40960, ("A100", "A100-40G"), 1555, _HGX_A100, _AMPERE),
    Device(("NVIDIA A100-SXM4-80GB",), _bf16(312e12), 81920, ("A100", "A100-80G"), 2039, _HGX_A100, _AMPERE),
    Device(("NVIDIA A100-PCIE-40GB",), _bf16(312e12), 40960, ("A100", "A100-40G"), 1555, _PCIE_4, _AMPERE),
    Device(("NVIDIA A100 80GB PCIe",), _bf16(312e12), 81920, ("A100", "A100-80G"), 1935, _PCIE_4, _AMPERE),
    Device(("NVIDIA A800-SXM4-40GB",), _bf16(312e12), 40960, ("A800",), 1555, _HGX_A800, _AMPERE),
    Device(
        ("NVIDIA A800-SXM4-80GB", "NVIDIA A800 80GB PCIe"),
        _bf16(312e12),
        81920,
        ("A800",),
        2039,
        _HGX_A800,
        _AMPERE,
    ),
    Device(("NVIDIA A40",), _bf16(149.7e12), 46068, ("A40",), 696, _PCIE_4),
    Device(("NVIDIA A30",), _bf16(165e12), 24576, ("A30",), 933, _PCIE_4),
    Device(("NVIDIA A10",), _bf16(125e12), 23028, ("A10",), 600, _PCIE_4),
    Device(("NVIDIA A10G",), {}, 23028, ("A10G",), 600, _PCIE_4),  # AWS's part, without a data sheet of NVIDIA's
    Device(("NVIDIA L40S",), _bf16(362.05e12), 46068, ("L40S",), 864, _PCIE_4),
    Device(("NVIDIA L40",), _bf16(181.05e12), 46068, ("L40",), 864, _PCIE_4),
    Device(("NVIDIA L4",), _bf16(121e12), 23034, ("L4",), 300, _PCIE_4),  # 242 sparse
    Device(("NVIDIA L20",), {}, 46068, ("L20",), 864, _PCIE_4),
    Device(("NVIDIA L2",), {}, None, ("L2",), 300, _PCIE_4),
    Device(("NVIDIA A16",), {}, 15356, ("A16",), 200, _PCIE_4),
    Device(("NVIDIA A2",), {}, 15356, ("A2",), 200, _PCIE_4),
    Device(("NVIDIA GB10",), {}, None, ("GB10",), 273),  # its memory is the host's
    *(
        Device((f"NVIDIA RTX PRO 6000 Blackwell {kind}Edition",), {}, 97887, ("RTX-PRO-6000",), 1792, _PCIE_5)
        for kind in ("Server ", "Workstation ", "Max-Q Workstation ")
    ),
    Device(("NVIDIA RTX 6000 Ada Generation",), _bf16(364.2e12), 49140, ("RTX-6000",), 960, _PCIE_4),
    Device(("NVIDIA RTX 5000 Ada Generation",), {}, 32760, ("RTX-5000",), 576, _PCIE_4),
    Device(("NVIDIA RTX A6000",), _bf16(154.8e12), 49140, ("RTX-A6000",), 768, _PCIE_4),  # GA102 white paper
    Device(("NVIDIA RTX A5000",), {}, 24564, ("RTX-A5000",), 768, _PCIE_4),
    Device(("NVIDIA RTX A4500",), {}, 20470, ("RTX-A4500",), 640, _PCIE_4),
    Device(("NVIDIA RTX A4000",), {}, 16376, ("RTX-A4000",), 448, _PCIE_4),
    *(
        Device((f"NVIDIA GeForce {name}",), peak, mib, (f"GeForce-{name.replace(' ', '-')}",), bandwidth, links)
        for name, peak, mib, bandwidth, links in (
            ("RTX 5090", {}, 32607, 1792, _PCIE_5),
            ("RTX 5080", {}, 16303, 960, _PCIE_5),
            ("RTX 5070 Ti", {}, 16303, 896, _PCIE_5),
            ("RTX 5070", {}, 12227, 672, _PCIE_5),
            ("RTX 4090", _bf16(165.2e12), 24564, 1008, _PCIE_4),  # Ada white paper
            ("RTX 4080 SUPER", {}, 16376, 736, _PCIE_4),
            ("RTX 4080", {}, 16376, 717, _PCIE_4),
            ("RTX 4070 Ti SUPER", {}, 16376, 672, _PCIE_4),
            ("RTX 4070 Ti", {}, 12282, 504, _PCIE_4),
            ("RTX 3090 Ti", {}, 24564, 1008, _PCIE_4),
            ("RTX 3090", _bf16(71e12), 24576, 936, _PCIE_4),  # GA102 white paper
            ("RTX 3080 Ti", {}, 12288, 912, _PCIE_4),
            ("RTX 3080", {}, 10240, 760, _PCIE_4),
            ("RTX 2080 Ti", {}, 11264, 616, _PCIE_3),
        )
    ),
    # No bf16 in hardware, as the GeForce RTX 20.
    Device(("NVIDIA TITAN RTX", "TITAN RTX"), {}, 24576, ("TITAN-RTX",), 672, _PCIE_3),
    Device(("NVIDIA TITAN V", "TITAN V"), {}, 12288, ("TITAN-V",), 653, _PCIE_3),
    Device(("Quadro RTX 8000",), {}, 49152, ("RTX-8000",), 672, _PCIE_3),
    Device(("Quadro RTX 6000",), {}, 24576, ("RTX-6000",), 672, _PCIE_3),
    Device(("Tesla V100-SXM2-16GB", "Tesla V100-SXM3-16GB"), _fp32(15.7e12), 16384, ("V100",), 900, _HGX_V100),
    Device(("Tesla V100-SXM2-32GB", "Tesla V100-SXM3-32GB"), _fp32(15.7e12), 32768, ("V100",), 900, _HGX_V100),
    Device(("Tesla V100-SXM2-32GB-LS", "Tesla V100-DGXS-32GB"), {}, 32768, ("V100",), 900, None),
    Device(("Tesla V100-PCIE-16GB", "Tesla V100-FHHL-16GB"), _fp32(14e12), 16384, ("V100",), 900, _PCIE_3),
    Device(("Tesla V100-PCIE-32GB",), _fp32(14e12), 32768, ("V100",), 900, _PCIE_3),
    Device(("Tesla V100S-PCIE-32GB",), _fp32(16.4e12), 32768, ("V100S",), 1134, _PCIE_3),
    Device(("Tesla T4", "NVIDIA T4"), {}, 15360, ("T4",), 300, _PCIE_3),
    # A MI250 or MI250X is two devices, each of half the figure.
    Device(("AMD Instinct MI325X",), _bf16(1307.4e12), 262128, ("AMD-Instinct-MI325X-OAM",), 6000, _MI300),
    Device(("AMD Instinct MI300X",), _bf16(1307.4e12), 196592, ("AMD-Instinct-MI300X-OAM",), 5300, _MI300),
    Device(("AMD Instinct MI300A",), _bf16(980.6e12), None, ("AMD-Instinct-MI300A",), 5300),
    Device(("AMD Instinct MI250X",), _bf16(191.5e12), 65520, ("AMD-Instinct-MI250X",), 1638, _MI200),
    Device(("AMD Instinct MI250",), _bf16(181.05e12), 65520, ("AMD-Instinct-MI250X-MI250",), 1638, _MI200),
    Device(("AMD Instinct MI210",), _bf16(181e12), 65520, ("AMD-Instinct-MI210",), 1638, _PCIE_4),
)


_CAPABILITIES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys((*(f"GeForce-RTX-50{n}" for n in ("90", "80", "70-Ti", "70")), "RTX-PRO-6000"), (12, 0)),
    "GB10": (12, 1),
    **dict.fromkeys(("B300", "GB300"), (10, 3)),
    **dict.fromkeys(("GB200", "B200"), (10, 0)),
    **dict.fromkeys(("GH200", "H200", "H100", "H800", "H20"), (9, 0)),
    **dict.fromkeys(("L40S", "L40", "L4", "L20", "L2", "RTX-5000"), (8, 9)),
    **dict.fromkeys((f"GeForce-RTX-40{n}" for n in ("90", "80-SUPER", "80", "70-Ti-SUPER", "70-Ti")), (8, 9)),
    **dict.fromkeys(("A40", "A10", "A10G", "A16", "A2", "RTX-A6000", "RTX-A5000", "RTX-A4500", "RTX-A4000"), (8, 6)),
    **dict.fromkeys((f"GeForce-RTX-30{n}" for n in ("90-Ti", "90", "80-Ti", "80")), (8, 6)),
    **dict.fromkeys(("A100", "A100-40G", "A100-80G", "A800", "A30"), (8, 0)),
    # RTX-6000 is also the one of Ada, with 8.9
    **dict.fromkeys(("T4", "RTX-8000", "RTX-6000", "TITAN-RTX", "GeForce-RTX-2080-Ti"), (7, 5)),
    **dict.fromkeys(("V100", "V100S", "TITAN-V"), (7, 0)),
}
"""Compute capability of NVIDIA's GPUs by Ray's name (developer.nvidia.com/cuda-gpus): what kernels are made for."""


def capability_by_ray_name(name: str | None) -> tuple[int, int] | None:
    """Compute capability of the devices that Ray calls `name`; None if it is not known, or they are not NVIDIA's."""
    return _CAPABILITIES.get(name or "")


def rays_spelling(name: str) -> str | None:
    """Return what Ray calls the devices of a name that only looks like one of Ray's; None if it is one, or like none.

    That is a name with other capitals or spaces, or the driver's.
    """
    known = {ray: ray for device in DEVICES for ray in device.ray_names}
    if name in known:
        return None
    by_driver = {
        driver: device.ray_names[0] for device in DEVICES for driver in device.driver_names if device.ray_names
    }
    spelled = {_plain(other): ray for other, ray in {**by_driver, **known}.items()}
    return spelled.get(_plain(name))


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "").replace("-", "").replace("_", "")


def device_by_driver_name(name: str) -> Device | None:
    """Return the device that the driver calls `name`; None if it is not in the table."""
    return next((device for device in DEVICES if name in device.driver_names), None)


def devices_by_ray_name(name: str | None) -> list[Device]:
    """Return the devices that Ray calls `name`, the commonest first; empty if none is in the table."""
    return [device for device in DEVICES if name in device.ray_names]


def memory_bytes_by_ray_name(name: str | None) -> int | None:
    """Memory of the smallest device that Ray calls `name`; None if none is known."""
    sizes = [device.memory_mib for device in devices_by_ray_name(name) if device.memory_mib is not None]
    return min(sizes) * MIB if sizes else None


def device_by_ray_name(name: str | None) -> Device | None:
    """Return the commonest device that Ray calls `name`; None if none is in the table."""
    return next(iter(devices_by_ray_name(name)), None)


def peak_of(device: Device | None, precision: str = "bf16") -> float | None:
    """Most FLOP/s of a device for a recipe in bf16; None if not known, or for a recipe in fp32.

    What has no bf16 in hardware multiplies in fp32.
    """
    if device is None or precision == "fp32":
        return None
    return device.peak_flops.get("bf16", device.peak_flops.get("fp32"))


def peak_flops(driver_name: str) -> float | None:
    """Most FLOP/s, as peak_of has them, of the device that the driver calls so; None if it is not in the table."""
    return peak_of(device_by_driver_name(driver_name))


def mean_peak_flops(names: Sequence[str]) -> float | None:
    """Return the mean of the peaks of devices, each given by its driver's name; None where that of any is unknown."""
    peaks = {name: peak_flops(name) for name in set(names)}
    known = [peak for name in names if (peak := peaks[name]) is not None]
    return sum(known) / len(known) if known and len(known) == len(names) else None
