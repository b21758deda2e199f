"""How a network runs: on which device, in which precision, by which runtime.

A model names its *kernels*, the submodules where the time goes. Only these are handed to a runtime, so spectra,
masks and everything complex stay in PyTorch whatever the runtime can or cannot do.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from iseparate.errors import BackendError, UsageError
from iseparate.models._base import SeparationModel

Precision = Literal["auto", "fp32", "bf16"]
Runtime = Literal["auto", "eager", "compile", "openvino", "onnx"]

_NEEDS = {"openvino": ("openvino",), "onnx": ("onnx", "onnxruntime", "onnxscript")}


@dataclass(frozen=True)
class Backend:
    """A choice that has been checked against this machine."""

    device: str
    precision: Literal["fp32", "mixed", "bf16"]
    """Mixed: bf16 for the kernels that a model names for it, fp32 for all others."""
    runtime: Literal["eager", "compile", "openvino", "onnx"]

    def prepare(self, model: SeparationModel) -> SeparationModel:
        """The model in eval mode on the device, its kernels run as chosen. The model is changed in place."""
        model.eval().requires_grad_(False).to(self.device)
        for name in model.kernels:
            in_bf16 = self.precision == "bf16" or (self.precision == "mixed" and name in model.kernels_in_bf16)
            model.set_submodule(name, self._wrap(model.get_submodule(name), in_bf16))
        return model

    def precision_of(self, model: SeparationModel) -> Literal["fp32", "mixed", "bf16"]:
        """What `precision` comes to for a model: mixed is fp32 where it names no kernels for bf16."""
        return self.precision if self.precision != "mixed" or model.kernels_in_bf16 else "fp32"

    def _wrap(self, kernel: nn.Module, in_bf16: bool) -> nn.Module:
        if self.runtime == "openvino":
            return _RuntimeKernel(kernel, lambda k, x: _openvino(k, x, in_bf16))
        if self.runtime == "onnx":
            return _RuntimeKernel(kernel, _onnx)
        eager = _EagerKernel(kernel, self.device, in_bf16)
        if self.runtime == "compile":
            eager.compile()
        return eager


def choose_backend(device: str = "auto", precision: Precision = "auto", runtime: Runtime = "auto") -> Backend:
    """Resolve every ``auto`` and refuse what this machine cannot do.

    Auto means: the first of CUDA, Apple's MPS and CPU that there is; fp32, the precision in which parity with the
    original systems is proven, but mixed on a CPU that is made for bf16; eager PyTorch, since the other runtimes take
    ten seconds to compile a network, which only a long batch wins back.

    Raises:
        BackendError: a device or runtime that is not here, or a combination that cannot be.
    """
    for option, value, choices in (("precision", precision, Precision), ("backend", runtime, Runtime)):
        if value not in get_args(choices):
            raise BackendError(f"there is no {option} {value!r}; say {', '.join(get_args(choices))}")
    device = _choose_device(device)
    on_cpu = device == "cpu"
    if runtime == "auto":
        runtime = "eager"
    for package in _NEEDS.get(runtime, ()):
        if not importlib.util.find_spec(package):
            raise BackendError(f"the {runtime} backend needs {package}: pip install 'iseparate[{runtime}]'")
    if runtime in _NEEDS and not on_cpu:
        raise BackendError(f"the {runtime} backend runs on the CPU only; leave out --device {device} or the backend")
    if runtime == "onnx" and precision == "bf16":
        raise BackendError("the onnx backend runs in fp32 only; use --backend openvino or eager for bf16")
    if precision != "auto":
        return Backend(device, precision, runtime)
    return Backend(device, "mixed" if on_cpu and runtime != "onnx" and cpu_is_made_for_bf16() else "fp32", runtime)


def cpu_is_made_for_bf16() -> bool:
    """True where bf16 has matrix units of its own (AMX); elsewhere it is no faster than fp32, or far slower."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def _choose_device(device: str) -> str:
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UsageError(f"{device!r} is not a device; say cpu, cuda, cuda:1 or mps") from None
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(kind, False):
        there = ", ".join(name for name, present in here.items() if present)
        raise BackendError(f"there is no usable {kind} device on this machine; there is {there}")
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise BackendError(f"there is no {device}; this machine has {torch.cuda.device_count()} CUDA device(s)")
    return "cpu" if kind == "cpu" else device


class _EagerKernel(nn.Module):
    """The network as PyTorch runs it, channels last (a tenth to a fifth faster for convolutions on a CPU)."""

    def __init__(self, kernel: nn.Module, device: str, in_bf16: bool):
        super().__init__()
        self.kernel = kernel.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device_type = torch.device(device).type
        self._in_bf16 = in_bf16

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._in_bf16):
            output: Tensor = self.kernel(x)
        return output.float()


class _RuntimeKernel(nn.Module):
    """A network handed to another runtime, once per input shape: segments all have the same one."""

    def __init__(self, kernel: nn.Module, build: Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]):
        super().__init__()
        # Held out of the module tree: the runtime has its own copy of the weights, and moves need not follow.
        self._source = [kernel]
        self._build = build
        self._built: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}
        self._building = threading.Lock()  # songs can run in threads of their own

    def forward(self, x: Tensor) -> Tensor:
        shape = tuple(x.shape)
        with self._building:
            if shape not in self._built:
                self._built[shape] = self._build(self._source[0], x)
        return self._built[shape](x)


def _openvino(kernel: nn.Module, example: Tensor, in_bf16: bool) -> Callable[[Tensor], Tensor]:
    import openvino

    with _quietly():
        network = openvino.convert_model(kernel, example_input=example, input=[list(example.shape)])
    compiled = openvino.compile_model(
        network,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    of_thread = threading.local()  # a request is one run at a time

    def run(x: Tensor) -> Tensor:
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        request = of_thread.request
        request.infer({0: x.contiguous().numpy()}, share_inputs=True)
        # A copy: the runtime writes its next result into the same memory.
        return torch.from_numpy(request.get_output_tensor().data.copy())

    return run


def _onnx(kernel: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    with _quietly():
        program = torch.onnx.export(kernel, (example,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (name,) = (i.name for i in session.get_inputs())

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])

    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporters' talk of their own internals from the user."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        exporter.setLevel(level)
