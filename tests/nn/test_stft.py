from __future__ import annotations

import numpy as np
import pytest
import torch

from iseparate.nn.stft import hann, overlap_frames, spectrum


def test_hann_is_periodic_and_sums_to_one_at_half_overlap():
    window = hann(64).double()
    assert window[0] == 0
    assert torch.allclose(window, torch.from_numpy(np.hanning(65)[:-1]), atol=1e-7)
    assert torch.allclose(window[:32] + window[32:], torch.ones(32).double(), atol=1e-7)


def test_a_frame_is_the_transform_of_its_own_samples():
    signal, window = torch.randn(2, 300), hann(64)
    found = spectrum(signal, window, 16)
    assert found.shape == (2, (300 - 64) // 16 + 1, 33)
    for k in (0, 3, 14):
        expected = np.fft.rfft(signal[1, 16 * k : 16 * k + 64].numpy() * window.numpy())
        assert np.abs(found[1, k].numpy() - expected).max() < 1e-5


def test_a_tone_lies_in_its_bin():
    time = torch.arange(256)
    magnitude = spectrum(torch.cos(2 * torch.pi * 5 * time / 64), hann(64), 32).abs()
    assert (magnitude.argmax(-1) == 5).all()
    assert torch.allclose(magnitude[:, 5], torch.tensor(16.0), atol=1e-4)  # half the window's sum


@pytest.mark.parametrize(("frame", "hop"), [(64, 16), (64, 32), (64, 64), (60, 15), (8, 1)])
def test_overlapped_frames_are_the_signal_times_the_sum_of_windows(frame, hop):
    signal, window = torch.randn(3, frame + 9 * hop), torch.rand(frame) + 0.1
    found = overlap_frames(spectrum(signal, window, hop), window, hop)
    weight = torch.zeros(signal.shape[-1])
    for k in range(10):
        weight[k * hop : k * hop + frame] += window.square()
    assert found.shape == signal.shape
    assert torch.allclose(found, signal * weight, atol=1e-5)


def test_stretches_add_up_to_the_whole():
    """The partial sums at the ends of two neighbours complete each other."""
    signal, window = torch.randn(64 + 16 * 11), hann(64)
    spectra = spectrum(signal, window, 16)
    whole = overlap_frames(spectra, window, 16)
    parts = torch.zeros_like(whole)
    parts[: 64 + 16 * 4] += overlap_frames(spectra[:5], window, 16)
    parts[16 * 5 :] += overlap_frames(spectra[5:], window, 16)
    assert torch.allclose(parts, whole, atol=1e-6)


def test_gradients_pass_both_ways():
    signal, window = torch.randn(200, dtype=torch.float64, requires_grad=True), hann(64).double()
    overlap_frames(spectrum(signal, window, 16), window, 16).square().sum().backward()
    assert signal.grad[1:191].abs().min() > 0
    assert not signal.grad[193:].any()  # no whole frame reaches them


def test_a_hop_that_does_not_divide_the_frame_is_refused():
    with pytest.raises(ValueError, match=r"the hop \(24\) must divide the frame \(64\)"):
        overlap_frames(torch.zeros(3, 33, dtype=torch.complex64), hann(64), 24)
