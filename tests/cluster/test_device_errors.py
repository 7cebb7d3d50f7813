"""What torch raises where memory, a device or the network fails."""

import pytest
import torch

from cluster.device_errors import explained, failure_kind
from configs.base import InfrastructureError, OutOfMemory


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "device"),
        (RuntimeError("CUDA error: unspecified launch failure"), "device"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "device"),
        (RuntimeError("HIP error: invalid device ordinal"), "device"),
        (RuntimeError("No CUDA GPUs are available"), "device"),
        (RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"), "device"),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"), "device"),
        (RuntimeError("CUDA driver initialization failed, you might not have a CUDA gpu."), "device"),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."), "device"),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "device"),
        (RuntimeError("GPU is lost"), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx`"), None),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), None),
        (torch.distributed.DistBackendError("NCCL Error 5: invalid usage"), None),
        (RuntimeError("Tensors must be CUDA and dense for nccl"), None),
        (RuntimeError("Distributed package doesn't have NCCL built in"), None),
        (RuntimeError("Gloomy shapes do not fit"), None),
        (RuntimeError("Found no NVIDIA driver on your system."), "device"),
        (torch.distributed.DistBackendError("ncclUnhandledCudaError: Call to CUDA function failed."), "device"),
        (torch.distributed.DistBackendError("NCCL communicator was aborted on rank 3."), "communication"),
        (torch.distributed.DistNetworkError("The client socket has timed out after 60000ms"), "communication"),
        (torch.distributed.DistStoreError("wait timeout after 300000ms, keys: /a"), "communication"),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), "communication"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:1"), "communication"),
        (RuntimeError("EADDRINUSE, message: address already in use"), "communication"),
        (ConnectionResetError("peer"), "communication"),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), None),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), None),
        (ValueError("CUDA error: in a sentence of another kind"), None),
        (KeyError("weight"), None),
        (None, None),
    ],
)
def test_each_kind_is_known_by_its_class_or_its_words(error: Exception | None, kind: str | None) -> None:
    assert failure_kind(error) == kind


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (
            RuntimeError("CUDA error: unspecified launch failure\nmore"),
            InfrastructureError,
            "training: the device failed",
        ),
        (MemoryError("big"), OutOfMemory, "training ran out of memory (big); lower micro_batch_size"),
        (ConnectionResetError("peer"), ConnectionResetError, "peer"),
        (KeyError("weight"), KeyError, "weight"),
    ],
)
def test_in_this_process_a_failure_is_a_sentence(raised: Exception, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught, explained("training"):
        raise raised
    assert says in str(caught.value) and "\n" not in str(caught.value)
