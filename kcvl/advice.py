"""What a command that ended early leaves to do: sentences in the words of that command."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

_DEVICES = Path("/dev")
_FULL_MEMORY = {
    "train": "Try smaller pictures (--set input_size=HxW), a smaller --set batch_size or fewer --set filters.",
    "evaluate": "Try smaller pictures, or, for a segmentation, windows of them (--tile 512).",
    "predict": "Try smaller pictures, or, for a segmentation, windows of them (--tile 512).",
    "export": "Try a smaller input (--size HxW).",
    "benchmark": "Try smaller pictures (--size HxW) or a smaller --batch.",
    "demo": "Close other programs, or choose another --system.",
}


def for_full_memory(command: str) -> str:
    """What to try where `command` needs more memory than there is."""
    return _FULL_MEMORY.get(command, "Close other programs, or give smaller pictures.")


def after_interruption(arguments: argparse.Namespace) -> str:
    """What is kept, and how to go on."""
    if arguments.command == "train":
        return f"Complete epochs are kept in {arguments.out}: the same command with --resume continues after the last."
    again = "run the command again"
    if arguments.command == "demo" and arguments.out:
        again += " with another --out"
    return f"What was complete is kept; {again}."


def for_unused_gpu(seen: int) -> str:
    """How TensorFlow, which has `seen` GPUs, comes to use the one that this machine has; "" where nothing is amiss."""
    # Images of containers hold the program without a device. Windows lends its GPUs, whoever made them, as `dxg`.
    wsl = (_DEVICES / "dxg").exists() and shutil.which("nvidia-smi")
    there = wsl or any(_DEVICES.glob("nvidia[0-9]*"))
    # Somebody may have hidden it on purpose.
    if seen or not there or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    return (
        "This machine has an NVIDIA GPU that TensorFlow does not use, often for lack of CUDA's libraries: "
        "pip install 'tensorflow[and-cuda]~=2.21.0'"
    )
