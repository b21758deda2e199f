"""A state that is a whole file again, compressed, as Demucs writes quantised weights."""

from __future__ import annotations

import io
import random
import zlib

import pytest
import torch

from iseparate.errors import CheckpointError, UnsafeCheckpointError
from iseparate.weights.read import read_checkpoint
from iseparate.weights.unpickle import load_torch

STATE = {
    "quantized": [(torch.arange(16).view(2, 8).byte(), (-0.5, 0.5), torch.tensor([[4], [5]]).byte())],
    "float16": [],
    "others": [torch.arange(3.0)],
}


def packed(state, zipped=True):
    inner = io.BytesIO()
    torch.save(state, inner, _use_new_zipfile_serialization=zipped)
    return {"compressed": zlib.compress(inner.getvalue())}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("in_package", [True, False])
def test_it_comes_unpacked(tmp_path, zipped, in_package):
    state = packed(STATE, zipped)
    torch.save({"klass": "Net", "state": state} if in_package else state, tmp_path / "x.th")
    content = load_torch(tmp_path / "x.th")
    content = content["state"] if in_package else content
    assert torch.equal(content["quantized"][0][0], STATE["quantized"][0][0])
    assert content["quantized"][0][1] == (-0.5, 0.5)
    tensors = read_checkpoint(tmp_path / "x.th")["x.th"].tensors
    assert torch.equal(tensors[f"{'state.' if in_package else ''}others.0"], torch.arange(3.0))


def test_bytes_of_that_name_elsewhere_are_left_alone(tmp_path):
    content = {"compressed": b"not zlib", "beside": 1}
    torch.save(content, tmp_path / "x.th")
    assert load_torch(tmp_path / "x.th") == content


class Attack:
    def __reduce__(self):
        import os

        return os.system, ("false",)


def test_what_is_inside_is_as_little_trusted(tmp_path):
    torch.save(packed({"others": [Attack()]}), tmp_path / "x.th")
    with pytest.raises(UnsafeCheckpointError, match="system"):
        load_torch(tmp_path / "x.th")


def cases():
    whole = packed(STATE)["compressed"]
    return {
        "no zlib": (b"nonsense", "are damaged"),
        "nothing": (b"", "cut short"),
        "cut short": (whole[: len(whole) // 2], "cut short"),
        "empty inside": (zlib.compress(b""), "x.th"),
        "text inside": (zlib.compress(b"hello"), "x.th"),
        "a bomb": (zlib.compress(bytes(600 << 20), 1), "unpacks to far more"),
    }


@pytest.mark.parametrize("case", cases())
def test_damage_is_told_in_a_sentence(tmp_path, case):
    data, words = cases()[case]
    torch.save({"compressed": data}, tmp_path / "x.th")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_torch(tmp_path / "x.th")
    assert "\n" not in str(caught.value)


def test_mutated_contents_are_read_or_refused(tmp_path):
    """Files with some bytes changed inside the compression."""
    inner = io.BytesIO()
    torch.save(STATE, inner, _use_new_zipfile_serialization=False)
    whole, chance = inner.getvalue(), random.Random(0)
    refused = 0
    for _ in range(300):
        mutated = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        outer = io.BytesIO()
        torch.save({"compressed": zlib.compress(bytes(mutated), 1)}, outer)
        (tmp_path / "x.th").write_bytes(outer.getvalue())
        try:
            load_torch(tmp_path / "x.th")
        except CheckpointError:
            refused += 1
    assert 60 < refused < 300
