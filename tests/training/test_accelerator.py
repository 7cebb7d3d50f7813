"""One file knows what differs between accelerators; here those that this machine lacks are fakes."""

from types import SimpleNamespace

import pytest
import torch

from cluster.device_errors import failure_kind
from configs.base import UserError
from training import accelerator
from training.accelerator import BACKENDS, check_device, device_bytes, device_name, own_device, peak_memory_bytes
from training.zero.step_timing import Stopwatch


class Event:
    """An event of a device that runs a second from each to the next."""

    now = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        Event.now += 1.0
        self.at = Event.now

    def synchronize(self) -> None:
        """It is done already."""

    def elapsed_time(self, later: "Event") -> float:
        return 1000.0 * (later.at - self.at)


@pytest.fixture
def xpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    module = SimpleNamespace(
        Event=Event,
        current_stream=lambda device: "the stream of passes",
        get_device_name=lambda device: "a GPU of Intel's",
        get_device_properties=lambda device: SimpleNamespace(total_memory=2**34),
        max_memory_allocated=lambda device: 12,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: {"xpu": module}[device.type])
    return torch.device("xpu", 0)


def test_a_cpu_needs_no_module_of_a_device():
    device = own_device("cpu")
    assert device == torch.device("cpu")
    assert device_name(device).endswith("CPU")
    assert device_bytes(device) > peak_memory_bytes(device) > 2**20
    accelerator.wait_for_stream(device)


def test_another_accelerator_is_asked_through_its_own_module(xpu):
    assert own_device("xpu") == xpu
    assert (device_name(xpu), device_bytes(xpu), peak_memory_bytes(xpu)) == ("a GPU of Intel's", 2**34, 12)
    assert BACKENDS[xpu.type] == "xccl"


def test_a_step_on_another_accelerator_is_timed_by_its_events(xpu):
    stopwatch = Stopwatch(xpu)
    with stopwatch.part("forward"):
        pass
    assert stopwatch.pop_seconds() == {"other": 2.0, "forward": 1.0}


def test_a_pytorch_without_gpus_is_the_users_to_mend_and_a_gpu_that_is_gone_is_a_lost_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"PyTorch .* on .* was built without them; install the build for your driver"):
        check_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RuntimeError, match=r"^CUDA error: PyTorch .* finds no device on ") as lost:
        check_device("cuda")
    assert failure_kind(lost.value) == "device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device("cuda")
