from __future__ import annotations

import torch

from iseparate.nn.norms import EPSILON, layer_norm


def statistics(x, kind, frame):
    """Mean and deviation of what a frame is normalised by, as the papers define it."""
    if kind == "feature":
        each = x.double()
        return each.mean(2), (each.var(2, correction=0) + EPSILON).sqrt()
    seen = {"global": x, "channel": x[:, :, frame], "cumulative": x[:, :, : frame + 1]}[kind].flatten(1).double()
    return seen.mean(1), (seen.var(1, correction=0) + EPSILON).sqrt()


def test_each_norm_is_its_definition():
    x = 3 + torch.randn(2, 5, 7)
    for kind in ("global", "channel", "cumulative", "feature"):
        norm = layer_norm(kind, 5)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        output = norm(x)
        for frame in range(7):
            mean, deviation = statistics(x, kind, frame)
            mean, deviation = (part.view(2, -1) for part in (mean, deviation))
            expected = (x[:, :, frame] - mean) / deviation * norm.weight + norm.bias
            assert torch.allclose(output[:, :, frame].double(), expected, atol=1e-5), (kind, frame)


def test_what_does_not_move_stays_finite():
    for kind in ("global", "channel", "cumulative", "feature"):
        assert torch.isfinite(layer_norm(kind, 5)(torch.full((1, 5, 7), 100.0))).all()
