"""Where a run computes, and in which numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tlcli.errors import UserError, choice
from tlcli.transfer.distributed import placed

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and the type that mixed precision uses on it; None is plain fp32."""

    device: torch.device
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        """For example "cpu fp32" or "cuda bf16"."""
        precision = next(k for k, v in _DTYPES.items() if v == self.dtype)
        return f"{self.device.type} {precision}"

    @property
    def batch_size(self) -> int:
        """Images a batch of a forward pass: fixed, since fp32 results move with it by 1e-6."""
        return 128 if self.device.type == "cuda" else 32

    def autocast(self) -> torch.autocast:
        """Mixed precision where there is any, else a context that does nothing."""
        on = self.dtype is not None
        return torch.autocast(self.device.type, dtype=self.dtype if on else None, enabled=on)

    def reference(self) -> "Compute":
        """The same device in fp32, which metrics are of."""
        return Compute(self.device, None)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch compute on `n` threads: on small problems several wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose(device: str = "auto", precision: str = "auto") -> Compute:
    """The device of that name and its precision.

    `auto` takes CUDA, then Apple's MPS, then the CPU; and bf16 (fp16 where that is lacking) on
    CUDA, fp32 elsewhere.

    Raises:
        UsageError: unknown name.
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
    if precision == "auto":
        precision = "fp32"
        if device == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return Compute(placed(torch.device(device)), _DTYPES[precision])
