"""The device and precision that a run computes in."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tlcli.errors import UsageError, UserError, choice
from tlcli.runtime.allocator import keep_freed_memory
from tlcli.runtime.choices import DEVICES, PRECISIONS
from tlcli.runtime.distributed.process_group import torchrun_env, world_size

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_WORKERS = 8
"""Largest number of forward passes side by side on a CPU: each holds a batch's activations."""


@dataclass(frozen=True)
class Compute:
    """A device, and the precision on it.

    Attributes:
        dtype: The type that mixed precision uses; None: plain fp32.
        compiled: Whether code that runs over and over goes through torch.compile.
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
    def feature_dtype(self) -> torch.dtype:
        """The type that features are computed and cached in, so that caching loses nothing."""
        return self.dtype or torch.float32

    @property
    def workers(self) -> int:
        """How many batches of a frozen pass are computed side by side.

        One per core on a CPU, each on its own: threads that share a batch wait for each other, and
        even longer while others decode images.
        """
        return min(torch.get_num_threads(), MAX_WORKERS) if self.device.type == "cpu" else 1

    @property
    def threads(self) -> int:
        """Torch's threads per worker. Results may depend on this number."""
        return max(1, torch.get_num_threads() // self.workers)

    @property
    def batch_size(self) -> int:
        """Images per batch of a forward pass. Fixed, because fp32 results move with it by 1e-6.

        On a CPU, where one core computes a batch, small batches stay in its caches.
        """
        return {"cuda": 128, "cpu": 16}.get(self.device.type, 32)

    def autocast(self) -> torch.autocast:
        """Return a context for mixed precision; it does nothing in plain fp32."""
        on = self.dtype is not None
        return torch.autocast(self.device.type, dtype=self.dtype if on else None, enabled=on)

    def reference(self) -> "Compute":
        """Return the same device in fp32, which metrics are computed in."""
        return replace(self, dtype=None)


def choose_device(device: str = "auto", precision: str = "auto", compiled: bool = False) -> Compute:
    """Return the device of that name with its precision.

    The device `auto` is CUDA, else Apple's MPS, else the CPU. The precision `auto` is bf16 on CUDA
    (fp16 where it lacks bf16) and on CPUs with native bf16, and fp32 elsewhere.

    Raises:
        UsageError: unknown name, or fp16 on a CPU.
        UserError: this machine has no such device.
    """
    choice("--device", device, DEVICES)
    choice("--precision", precision, PRECISIONS)
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available[device]:
        names = [name for name, there in available.items() if there]
        raise UserError(
            f"--device {device}: torch {torch.__version__} finds no such device on this machine",
            f"available: {', '.join(names)}",
        )
    if device == "cpu" and precision == "fp16":
        raise UsageError(
            "--precision fp16 is for CUDA: on a CPU it is many times slower than fp32",
            "leave it out, or use --precision bf16",
        )
    if device == "cpu":
        keep_freed_memory()
    if precision == "auto":
        precision = "fp32"
        if device == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        elif device == "cpu" and has_native_bf16():
            precision = "bf16"
    return Compute(_assign_device(torch.device(device)), _DTYPES[precision], compiled)


def _assign_device(device: torch.device) -> torch.device:
    """Return this process's own CUDA device; all processes share the CPU.

    Raises:
        UserError: the machine has fewer CUDA devices than processes, or the device cannot be
            used by several processes.
    """
    if world_size() == 1 or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {device}: several processes need --device cpu or cuda")
    local_rank, n_devices = torchrun_env("LOCAL_RANK", 0), torch.cuda.device_count()
    if local_rank >= n_devices:
        raise UserError(
            f"{torchrun_env('LOCAL_WORLD_SIZE', 1)} processes on a machine with {n_devices} "
            "CUDA devices",
            f"use --nproc-per-node {n_devices}, or --device cpu",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def has_native_bf16() -> bool:
    """Return whether this CPU multiplies bf16 itself (AVX-512 BF16, AMX), not by emulation."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def compile_error_text(error: RuntimeError) -> str:
    """Return why torch.compile failed, as the end of a sentence."""
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return f"cannot be compiled ({first})"


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device, images as channels-last; copies to CUDA are asynchronous."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    memory_format = torch.channels_last if x.dim() == 4 else torch.preserve_format
    return x.to(device, non_blocking=True, memory_format=memory_format)
