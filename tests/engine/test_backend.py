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


@pytest.mark.usefixtures("no_gpu")
def test_auto_is_fp32_on_the_cpu():
    assert choose_backend() == Backend("cpu", "fp32", "eager")


@pytest.mark.usefixtures("one_gpu")
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
