from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
from toy_models import decibels, noise, stream

from iseparate.engine.backend import Backend, choose_backend
from iseparate.errors import BackendError, UsageError
from iseparate.models._registry import architecture
from iseparate.models.spleeter import Config, Spleeter


@pytest.fixture(scope="module")
def spleeter():
    torch.manual_seed(0)
    return Spleeter(Config.tiny()).eval()


@pytest.fixture(scope="module")
def song():
    return noise(3000)


@pytest.fixture
def no_gpu():
    with (
        mock.patch("torch.cuda.is_available", return_value=False),
        mock.patch("torch.backends.mps.is_available", return_value=False),
    ):
        yield


@pytest.fixture
def one_gpu():
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=1),
    ):
        yield


@pytest.fixture(params=[False, True], ids=["plain", "amx"])
def amx(request):
    with mock.patch("torch.cpu.get_capabilities", return_value={"amx_bf16": request.param}):
        yield request.param


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_mixed_on_a_cpu_made_for_bf16_and_else_fp32(amx):
    assert choose_backend() == Backend("cpu", "mixed" if amx else "fp32", "eager")
    assert choose_backend("cpu", "fp32").precision == "fp32"


@pytest.mark.usefixtures("no_gpu")
def test_a_cpu_that_says_nothing_of_amx_is_not_made_for_bf16():
    with mock.patch("torch.cpu.get_capabilities", return_value={}):
        assert choose_backend().precision == "fp32"


@pytest.mark.usefixtures("one_gpu", "amx")
def test_auto_takes_the_gpu_where_there_is_one():
    assert choose_backend() == Backend("cuda", "fp32", "eager")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(BackendError, match=rf"there is no usable {device[:3]}\w* device on this machine; there is cpu"):
        choose_backend(device)


@pytest.mark.usefixtures("one_gpu")
def test_the_second_of_one_gpus_is_refused():
    assert choose_backend("cuda:0").device == "cuda:0"
    with pytest.raises(BackendError, match=r"there is no cuda:1; this machine has 1 CUDA device"):
        choose_backend("cuda:1")


@pytest.mark.parametrize("device", ["gpu", "", "cpu cpu", "cuda:x", "🎸"])
def test_what_is_no_device_is_refused(device):
    with pytest.raises(UsageError, match="is not a device; say cpu, cuda, cuda:1 or mps"):
        choose_backend(device)


@pytest.mark.parametrize("device", ["meta", "xla", "vulkan"])
def test_what_is_a_device_only_to_torch_is_refused(device):
    with pytest.raises(BackendError, match="there is no usable"):
        choose_backend(device)


@pytest.mark.parametrize(("option", "value"), [("precision", "fp8"), ("runtime", "tensorrt")])
def test_what_is_no_choice_is_refused(option, value):
    with pytest.raises(BackendError, match=f"{value!r}; say auto, "):
        choose_backend("cpu", **{option: value})


def test_cpu_goes_by_its_number_too():
    assert choose_backend("cpu:0", runtime="eager").device == "cpu"


@pytest.mark.parametrize(("runtime", "package"), [("openvino", "openvino"), ("onnx", "onnx"), ("onnx", "onnxruntime")])
def test_a_missing_runtime_names_what_to_install(runtime, package):
    present = mock.patch("importlib.util.find_spec", lambda name, *_: None if name == package else object())
    with present, pytest.raises(BackendError, match=rf"needs {package}: pip install 'iseparate\[{runtime}\]'"):
        choose_backend("cpu", runtime=runtime)


@pytest.mark.usefixtures("one_gpu")
def test_cpu_runtimes_refuse_a_gpu():
    with (
        mock.patch("importlib.util.find_spec", return_value=object()),
        pytest.raises(BackendError, match="openvino backend runs on the CPU only"),
    ):
        choose_backend("cuda", runtime="openvino")


@pytest.mark.usefixtures("no_gpu", "amx")
def test_onnx_is_fp32():
    with mock.patch("importlib.util.find_spec", return_value=object()):
        assert choose_backend(runtime="onnx").precision == "fp32"


def test_onnx_refuses_bf16():
    with (
        mock.patch("importlib.util.find_spec", return_value=object()),
        pytest.raises(BackendError, match="onnx backend runs in fp32 only"),
    ):
        choose_backend("cpu", "bf16", "onnx")


def prepared(spleeter, precision="fp32", runtime="eager"):
    return Backend("cpu", precision, runtime).prepare(copy.deepcopy(spleeter))


def test_eager_is_the_network_itself(spleeter, song):
    expected = stream(copy.deepcopy(spleeter), song)
    assert np.abs(stream(prepared(spleeter), song) - expected).max() < 1e-5


def test_bf16_is_near_fp32_but_not_it(spleeter, song):
    expected, found = stream(copy.deepcopy(spleeter), song), stream(prepared(spleeter, "bf16"), song)
    assert found.dtype == np.float32
    assert -100 < decibels(found - expected, expected) < -30


def test_mixed_is_bf16_for_the_kernels_that_a_model_names_and_for_no_others(spleeter, song):
    expected = stream(prepared(spleeter), song)
    mixed = Backend("cpu", "mixed", "eager")
    official = copy.deepcopy(spleeter)
    assert mixed.precision_of(official) == "fp32"
    assert np.array_equal(stream(mixed.prepare(official), song), expected)
    ours = copy.deepcopy(spleeter)
    ours.kernels_in_bf16 = ours.kernels
    assert mixed.precision_of(ours) == "mixed"
    assert np.array_equal(stream(mixed.prepare(ours), song), stream(prepared(spleeter, "bf16"), song))


@pytest.mark.parametrize("name", ["band", "cascade"])
def test_what_was_trained_here_names_its_kernels_for_bf16(name):
    arch = architecture(name)
    model = arch.model(arch.config.tiny())
    assert model.kernels
    assert model.kernels_in_bf16 == model.kernels


def test_a_prepared_model_is_in_eval_mode_and_holds_no_gradients(spleeter):
    model = prepared(copy.deepcopy(spleeter).train())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_compiled_is_the_network_itself(spleeter, song):
    expected = stream(copy.deepcopy(spleeter), song)
    assert np.abs(stream(prepared(spleeter, runtime="compile"), song) - expected).max() < 1e-4


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:torch.jit.TracerWarning")
@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_another_runtime_gives_the_same(spleeter, song, runtime):
    pytest.importorskip({"openvino": "openvino", "onnx": "onnxruntime"}[runtime])
    expected = stream(copy.deepcopy(spleeter), song)
    found = stream(prepared(spleeter, runtime=runtime), song, batch_size=3)  # and fewer at the end
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:torch.jit.TracerWarning")
def test_songs_in_threads_of_their_own_do_not_mix(spleeter):
    pytest.importorskip("openvino")
    songs = [noise(6000, seed=seed) for seed in range(6)]
    expected = [stream(copy.deepcopy(spleeter), song) for song in songs]
    model = prepared(spleeter, runtime="openvino")
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda song: stream(model, song), songs))
    assert max(np.abs(f - e).max() for f, e in zip(found, expected, strict=True)) < 1e-4
