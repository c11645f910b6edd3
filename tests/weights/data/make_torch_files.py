"""Wrote the `.pth` files beside it, once, with torch 2.13: `python make_torch_files.py`. The tests do not run it."""

from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


def state() -> OrderedDict:
    shared = torch.arange(24, dtype=torch.float32)
    return OrderedDict(
        {
            "plain": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4,
            "parameter": torch.nn.Parameter(torch.tensor([1.5, -2.5])),
            "channels_last": (torch.arange(24.0).reshape(1, 2, 3, 4)).to(memory_format=torch.channels_last),
            "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
            "shared_a": shared[2:8].view(2, 3),
            "shared_b": shared[1::5],
            "half": torch.tensor([1.0, -0.5, 65504.0, 2**-24], dtype=torch.float16),
            "bfloat16": torch.tensor([1.0, -3.140625, 2.0**100], dtype=torch.bfloat16),
            "double": torch.tensor([0.1], dtype=torch.float64),
            "num_batches_tracked": torch.tensor(7),
            "int": torch.tensor([-1, 2**31 - 1], dtype=torch.int32),
            "bytes": torch.tensor([0, 255], dtype=torch.uint8),
            "flags": torch.tensor([True, False]),
            "empty": torch.zeros(0, 3),
        }
    )


def main() -> None:
    torch.save(state(), HERE / "zip.pth")
    torch.save(state(), HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": state(), "epoch": 3, "lr": [0.1, None]}, HERE / "wrapped.pth")
    torch.save({"model": state(), "args": torch.nn.Linear(1, 1)}, HERE / "module.pth")
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    for index, tensor in enumerate(layer.state_dict().values()):
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + 10 * index)
    torch.save(torch.nn.DataParallel(layer).state_dict(), HERE / "parallel.pth")


if __name__ == "__main__":
    main()
