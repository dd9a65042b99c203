"""Where a run computes, and in which numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tlcli.errors import UsageError, UserError, choice
from tlcli.runtime.choices import DEVICES, PRECISIONS
from tlcli.runtime.distributed.process_group import assign_device
from tlcli.runtime.memory import keep_memory

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_WORKERS = 8
"""Forward passes that run beside each other on a CPU, at most: each holds a batch's activations."""


@dataclass(frozen=True)
class Compute:
    """A device and the type that mixed precision uses on it; None is plain fp32.

    `compiled`: what is computed over and over goes through torch.compile.
    """

    device: torch.device
    dtype: torch.dtype | None
    compiled: bool = False

    @property
    def name(self) -> str:
        """For example "cpu fp32" or "cuda bf16"."""
        precision = next(k for k, v in _DTYPES.items() if v == self.dtype)
        return f"{self.device.type} {precision}" + (" compiled" if self.compiled else "")

    @property
    def stored(self) -> torch.dtype:
        """What frozen activations are computed to and kept in: nothing is lost on the way."""
        return self.dtype or torch.float32

    @property
    def workers(self) -> int:
        """How many batches of a frozen pass are computed beside each other.

        On a CPU one a core, each on its own: threads that share a batch wait for each other, and
        all the more where decoding takes turns with them.
        """
        return min(torch.get_num_threads(), MAX_WORKERS) if self.device.type == "cpu" else 1

    @property
    def threads(self) -> int:
        """torch's threads of each of those; what numbers may depend on."""
        return max(1, torch.get_num_threads() // self.workers)

    @property
    def batch_size(self) -> int:
        """Images a batch of a forward pass: fixed, since fp32 results move with it by 1e-6.

        On a CPU, where a core computes a batch by itself, small ones stay in its caches.
        """
        return {"cuda": 128, "cpu": 16}.get(self.device.type, 32)

    def autocast(self) -> torch.autocast:
        """Mixed precision where there is any, else a context that does nothing."""
        on = self.dtype is not None
        return torch.autocast(self.device.type, dtype=self.dtype if on else None, enabled=on)

    def reference(self) -> "Compute":
        """The same device in fp32, which metrics are of."""
        return replace(self, dtype=None)


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch compute on `n` threads: on small problems several wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cannot_compile(error: RuntimeError) -> str:
    """What torch.compile raised, as the end of a sentence."""
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return f"cannot be compiled ({first})"


def native_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX-512 BF16, AMX); elsewhere it is emulated."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def choose_device(device: str = "auto", precision: str = "auto", compiled: bool = False) -> Compute:
    """The device of that name and its precision.

    `auto` takes CUDA, then Apple's MPS, then the CPU; and bf16 on CUDA (fp16 where that is
    lacking) and on CPUs that have it natively, fp32 elsewhere.

    Raises:
        UsageError: unknown name, or fp16 on a CPU.
        UserError: this machine has no such device.
    """
    choice("--device", device, DEVICES)
    choice("--precision", precision, PRECISIONS)
    have = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in have.items() if there)
    if not have[device]:
        there = [name for name, yes in have.items() if yes]
        raise UserError(
            f"--device {device}: torch {torch.__version__} finds no such device here",
            f"this machine has: {', '.join(there)}",
        )
    if device == "cpu" and precision == "fp16":
        raise UsageError(
            "--precision fp16 is for CUDA: a CPU takes many times as long for it as for fp32",
            "leave it out, or --precision bf16",
        )
    if device == "cpu":
        keep_memory()
    if precision == "auto":
        precision = "fp32"
        if device == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        elif device == "cpu" and native_bf16():
            precision = "bf16"
    return Compute(assign_device(torch.device(device)), _DTYPES[precision], compiled)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """There, images as channels-last; a copy to CUDA runs beside what is computed there."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    form = torch.channels_last if x.dim() == 4 else torch.preserve_format
    return x.to(device, non_blocking=True, memory_format=form)
