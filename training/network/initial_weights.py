"""The random weights that a model starts with: transformers' own initialisation, drawn piece by piece.

transformers initialises a model on the meta device, where nothing is computed, while the writes to each parameter are
recorded. Any piece of any parameter can then be drawn without the rest. The numbers come from Philox, a counter-based
generator (Salmon et al., SC 2011), addressed by seed, parameter name, write and block of elements: they do not depend
on how many ranks draw them, or on what each of them draws.

A parameter that is written otherwise than by constants and independent draws, such as the rescaled output layers of
Nemotron-H, is initialised whole by transformers itself, in host memory, from one seed on all ranks.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.initialization import TORCH_INIT_FUNCTIONS, no_tie_weights

from configs.base import UserError

BLOCK_ELEMENTS = 1 << 16
"""Elements that are drawn by one generator, which is made for them. Part of what the numbers are."""

_STAGED_BLOCKS = 256
"""Blocks that are drawn in host memory, 64 MiB, before they go to another device or precision."""

_DEFAULTS: dict[str, tuple[float, ...]] = {
    "normal_": (0.0, 1.0),
    "uniform_": (0.0, 1.0),
    "trunc_normal_": (0.0, 1.0, -2.0, 2.0),
    "zero_": (),
    "fill_": (0.0,),
}
"""The writes that can be repeated on any piece of a tensor, with their arguments where they are left out."""

_RESIDUAL_OUTPUT = re.compile(
    r"\.(?:o_proj|out_proj|down_proj|c_proj|fc2|w2|dense_4h_to_h|(?:self_attn|attention|self_attention)\.dense)(?:\.weight)?$"
)
"""Names of the matrices that write to the residual stream, in transformers' architectures."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Write:
    """A write to consecutive elements of a parameter."""

    kind: str
    """A key of _DEFAULTS, or `copy_`."""

    arguments: tuple[float, ...]
    start: int
    stop: int
    values: Floats | None = None
    """What `copy_` writes, flat."""


class InitialWeights:
    """The recorded initialisation of a model, from which the elements of its parameters can be drawn."""

    def __init__(self, build: Callable[[], PreTrainedModel], model: PreTrainedModel) -> None:
        """Initialise `model`, which `build` made by `build_on_meta_device`, and tie its weights.

        Its buffers get memory, and their values.
        """
        self._build = build
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.zeros_like(buffer, device="cpu")
        self._writes, written = _record_writes(model)
        model.tie_weights()  # only now: of tied weights the first one's initialisation is kept
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        if unwritten := dict(model.named_buffers()).keys() - written:  # they keep the values they were made with
            values = dict(_build_in_memory(build, parameters={}, seed=0).named_buffers())
            for name in unwritten:
                model.get_buffer(name).copy_(values[name])
        self._wholes: dict[int, dict[str, torch.Tensor]] = {}
        """By seed, the parameters that cannot be drawn in pieces, until `release`."""
        self._scales: dict[str, np.float32] = {}

    def scale_residual_outputs(self, num_layers: int) -> None:
        """Have the matrices that write to the residual stream be smaller by 1 / sqrt(2 x num_layers).

        Raises UserError if the model's layers have none of the known names, or have a rule of their own for them.
        """
        outputs = [name for name in self._shapes if _RESIDUAL_OUTPUT.search(name)]
        deviations = {name: self._deviation(name) for name in self._shapes if len(self._shapes[name]) > 1}
        others = {deviation for name, deviation in deviations.items() if name not in outputs and deviation}
        if len(outputs) < 2 * num_layers:
            raise UserError(
                "model.depth_scaled_init: the layers of this architecture have no output projections by a name that is "
                "known, such as o_proj and down_proj; leave it out"
            )
        if any(deviations[name] is None or deviations[name] not in others for name in outputs):
            raise UserError(
                "model.depth_scaled_init: this architecture draws its output projections by a rule of its "
                "own; leave it out"
            )
        self._scales = dict.fromkeys(outputs, np.float32(1 / math.sqrt(2 * num_layers)))

    def _deviation(self, name: str) -> float | None:
        """Return the standard deviation that a parameter is drawn with, if it is drawn with one."""
        last = self._writes[name][-1] if name in self._writes else None
        return last.arguments[1] if last is not None and last.kind in ("normal_", "trunc_normal_") else None

    def draw(self, seed: int, name: str, offset: int, into: torch.Tensor) -> None:
        """Fill a one-dimensional tensor, of any device and precision, with elements of a parameter from `offset` on.

        Each is the same number, rounded to the tensor's precision, whatever piece it is drawn with.
        """
        if name not in self._writes:
            into.copy_(self._whole(seed, name).view(-1)[offset : offset + len(into)])
        elif into.device.type == "cpu" and into.dtype == torch.float32 and into.is_contiguous():
            self._draw_blocks(seed, name, offset, into.numpy())
        else:
            for start in range(0, len(into), _STAGED_BLOCKS * BLOCK_ELEMENTS):
                part = into[start : start + _STAGED_BLOCKS * BLOCK_ELEMENTS]
                staged = np.empty(len(part), np.float32)
                self._draw_blocks(seed, name, offset + start, staged)
                part.copy_(torch.from_numpy(staged))

    def release(self) -> None:
        """Free what was initialised whole; it is made again when it is drawn again."""
        self._wholes.clear()

    def _draw_blocks(self, seed: int, name: str, offset: int, out: Floats) -> None:
        def draw_block(block: int) -> None:
            first = max(block * BLOCK_ELEMENTS, offset)
            last = min((block + 1) * BLOCK_ELEMENTS, offset + len(out))
            for number, write in enumerate(self._writes[name]):
                _apply(write, first, out[first - offset : last - offset], address=f"{seed}/{number}/{name}")
            out[first - offset : last - offset] *= self._scales.get(name, np.float32(1))

        blocks = range(offset // BLOCK_ELEMENTS, -(-(offset + len(out)) // BLOCK_ELEMENTS))
        if len(blocks) < 2:
            list(map(draw_block, blocks))
            return
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # numpy draws outside Python's lock
            list(threads.map(draw_block, blocks))

    def _whole(self, seed: int, name: str) -> torch.Tensor:
        if seed not in self._wholes:
            wanted = {name: shape for name, shape in self._shapes.items() if name not in self._writes}
            made = dict(_build_in_memory(self._build, parameters=wanted, seed=seed).named_parameters())
            self._wholes[seed] = {name: made[name].data for name in wanted}
        return self._wholes[seed][name]


def build_on_meta_device(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Build a model whose parameters have no memory, for InitialWeights to initialise, to tie and to give buffers."""
    with torch.device("meta"), no_tie_weights():
        return build()


def _record_writes(model: PreTrainedModel) -> tuple[dict[str, tuple[_Write, ...]], set[str]]:
    """Initialise a model; return the writes that make each parameter, and the names of the buffers that are written.

    A parameter that cannot be drawn in pieces is left out.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    recorder = _Recorder({_storage(tensor): name for name, tensor in tensors})
    with recorder.truncated_normals(), recorder, torch.no_grad():
        model.initialize_weights()
    numel = {name: parameter.numel() for name, parameter in model.named_parameters()}
    kept = {}
    for name in recorder.writes.keys() & numel.keys():
        writes = recorder.writes[name]
        whole = [i for i, write in enumerate(writes) if (write.start, write.stop) == (0, numel[name])]
        if whole and name not in recorder.unknown:
            kept[name] = tuple(writes[whole[-1] :])
    return kept, recorder.writes.keys() - numel.keys()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the writes to parameters, which are on the meta device, and to buffers, which are not."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = names
        self.writes: dict[str, list[_Write]] = {}
        self.unknown: set[str] = set()
        """Parameters with a write that cannot be repeated on a piece."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable and args and torch.is_tensor(args[0]):
            self._note(func._schema.name.removeprefix("aten::"), args[0], *args[1:])
        return func(*args, **(kwargs or {}))

    @contextmanager
    def truncated_normals(self) -> Iterator[None]:
        """Note calls of trunc_normal_ in this block, which does nothing on the meta device."""
        original = TORCH_INIT_FUNCTIONS["trunc_normal_"]

        def note(
            tensor: torch.Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, **_: Any
        ) -> torch.Tensor:
            if not tensor.is_meta:
                return original(tensor, mean, std, a, b)  # type: ignore[no-any-return]
            self._note("trunc_normal_", tensor, mean, std, a, b)
            return tensor

        TORCH_INIT_FUNCTIONS["trunc_normal_"] = note
        try:
            yield
        finally:
            TORCH_INIT_FUNCTIONS["trunc_normal_"] = original

    def _note(self, kind: str, tensor: torch.Tensor, *given: Any) -> None:
        name = self._names.get(_storage(tensor))
        if name is None:
            return
        start, values, arguments = int(tensor.storage_offset()), None, _DEFAULTS.get(kind, ())
        arguments = tuple(map(float, given)) + arguments[len(given) :] if kind in _DEFAULTS else ()
        if kind == "copy_" and torch.is_tensor(given[0]) and not given[0].is_meta:
            values = given[0].float().broadcast_to(tensor.shape).reshape(-1).numpy().copy()
        if not tensor.is_contiguous() or (kind not in _DEFAULTS and values is None):
            self.unknown.add(name)
        self.writes.setdefault(name, []).append(_Write(kind, arguments, start, start + tensor.numel(), values))


def _storage(tensor: torch.Tensor) -> int:
    """Return what tells the memory of a tensor, also on the meta device, from that of others."""
    return int(tensor.untyped_storage()._cdata)


def _apply(write: _Write, first: int, out: Floats, *, address: str) -> None:
    """Repeat a write on elements of one block, of which the first is number `first` in the parameter."""
    skipped = max(0, write.start - first)
    first, out = first + skipped, out[skipped : max(skipped, write.stop - first)]
    if not len(out):
        return
    if write.values is not None:
        out[:] = write.values[first - write.start : first - write.start + len(out)]
    elif write.kind in ("zero_", "fill_"):
        out[:] = write.arguments[0] if write.arguments else 0.0
    else:
        block, place = divmod(first, BLOCK_ELEMENTS)
        key = np.frombuffer(hashlib.sha256(address.encode()).digest()[:16], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, block, 0]))
        out[:] = _draw(generator, write, place + len(out))[place:]


def _draw(generator: np.random.Generator, write: _Write, size: int) -> Floats:
    if write.kind == "normal_":
        mean, std = write.arguments
        return generator.standard_normal(size, np.float32) * np.float32(std) + np.float32(mean)
    if write.kind == "uniform_":
        low, high = write.arguments
        return generator.random(size, np.float32) * np.float32(high - low) + np.float32(low)
    mean, std, low, high = write.arguments  # by the inverse of the distribution function
    below, above = (math.erf((bound - mean) / std / math.sqrt(2)) for bound in (low, high))
    shares = torch.from_numpy(below + (above - below) * generator.random(size))
    values = mean + std * math.sqrt(2) * torch.erfinv(shares)
    return values.clamp(low, high).float().numpy()


def _build_in_memory(
    build: Callable[[], PreTrainedModel], *, parameters: Mapping[str, tuple[int, ...]], seed: int
) -> PreTrainedModel:
    """Build and initialise a model in host memory, but for the parameters that are not among the given shapes by name.

    Those have no memory, unless they share the last part of a name, and the shape, with one that is asked for.
    """
    wanted = {(name.rpartition(".")[2], tuple(shape)) for name, shape in parameters.items()}
    register = torch.nn.Module.register_parameter

    def register_wanted(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            device = "cpu" if (name, tuple(parameter.shape)) in wanted else "meta"
            if parameter.device.type != device:
                data = torch.empty_like(parameter.data, device=device)
                module._parameters[name] = torch.nn.Parameter(data, requires_grad=parameter.requires_grad)

    torch.nn.Module.register_parameter = register_wanted  # type: ignore[method-assign,assignment]
    try:
        with torch.random.fork_rng(devices=[]), _EmptyOnMetaDevice():
            torch.manual_seed(seed)
            return build()
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


class _EmptyOnMetaDevice(TorchFunctionMode):
    """Tensors without values take no memory, unless their device is named."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.empty and given.get("device") is None:
            given = given | {"device": "meta"}
        return func(*args, **given)
