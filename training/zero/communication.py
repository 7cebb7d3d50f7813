"""The exchange of gradients and weights: what of it is timed as waiting for others, and how it is hidden behind a pass.

On a GPU, DeepSpeed issues collectives on streams of their own, and has the main stream wait for these where it needs
what they bring (0.19.8).
"""

from collections.abc import Callable
from typing import Any

import deepspeed
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.runtime.zero.partitioned_param_coordinator import iter_params
from deepspeed.utils import z3_leaf_module

from training.zero.step_timing import COLLECTIVES, Stopwatch


def time_collectives(stopwatch: Stopwatch) -> None:
    """Have the stopwatch count the time of DeepSpeed's collectives as communication from now on."""
    backend = deepspeed.comm.comm.cdb
    for name in COLLECTIVES:
        call = getattr(type(backend), name).__get__(backend)
        setattr(backend, name, stopwatch.time_collective(call))


def time_waits(engine: Any, stopwatch: Stopwatch) -> None:
    """Have the stopwatch count as communication where an engine's passes wait for collectives on other streams.

    Little else is done there: gradients are copied to and from buckets. To be called once for an engine.
    """
    optimizer = engine.optimizer
    for name in (
        "average_tensor",  # stages 1 and 2: for the reduction before, whose bucket is filled next
        "_DeepSpeedZeroOptimizer_Stage3__reduce_and_partition_ipg_grads",  # for the last but two
        "overlapping_partition_gradients_reduce_epilogue",  # stages 1 to 3: for all, at the end of a backward pass
    ):
        if hasattr(optimizer, name):
            setattr(optimizer, name, stopwatch.time_call(getattr(optimizer, name)))
    if engine.zero_optimization_stage() == 3:
        coordinator = optimizer.parameter_offload.param_coordinator
        coordinator.fetch_sub_module = _time_fetches(coordinator.fetch_sub_module, stopwatch)


def _time_fetches(fetch: Callable[..., None], stopwatch: Stopwatch) -> Callable[..., None]:
    """Wrap the function that gathers the weights of a module, and those of later ones, before each module's pass."""
    timed = stopwatch.time_call(fetch)

    def fetch_sub_module(module: Any, forward: bool) -> None:
        parameters = iter_params(module, recurse=z3_leaf_module(module))
        has_all = all(parameter.ds_status is ZeroParamStatus.AVAILABLE for parameter in parameters)
        (fetch if has_all else timed)(module, forward)

    return fetch_sub_module


def overlap_reductions(optimizer: Any) -> None:
    """Mend DeepSpeed's `overlap_comm` in stages 1 and 2, where it is on.

    Before each reduction to one owner DeepSpeed waits for all that the GPU has to do, and so hides nothing; the order
    of streams that `average_tensor` sets up is enough, as it is for the all-reduces there. And a gradient larger than a
    bucket is reduced where it is, and may be freed and written over before it is read on the other stream.
    """
    if not (getattr(optimizer, "overlap_comm", False) and getattr(optimizer, "contiguous_gradients", False)):
        return
    if not hasattr(optimizer, "average_tensor"):
        return
    reduce, average = optimizer.allreduce_and_copy, optimizer.average_tensor

    def reduce_in_order(*arguments: Any, **named: Any) -> None:
        optimizer.overlap_comm = False  # `average_tensor`, which calls this, has made its stream the current one
        try:
            reduce(*arguments, **named)
        finally:
            optimizer.overlap_comm = True

    def keep_and_average(tensor: Any, *arguments: Any, **named: Any) -> None:
        if optimizer.reduction_stream is not None:
            tensor.record_stream(optimizer.reduction_stream)
        average(tensor, *arguments, **named)

    optimizer.allreduce_and_copy, optimizer.average_tensor = reduce_in_order, keep_and_average
