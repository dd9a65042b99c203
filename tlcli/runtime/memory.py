"""What to do when memory runs out: the same work in smaller parts, or one plain error."""

import torch

from tlcli.errors import UserError

# The CPU's allocator and the libraries of MPS and CUDA raise a plain RuntimeError with such a text.
OUT_OF_MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the error means that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in OUT_OF_MEMORY_SIGNS)


def out_of_memory_error(purpose: str, hint: str) -> UserError:
    """Make the error to raise where memory ran out; `purpose` begins with "for" or "to"."""
    return UserError(f"not enough memory {purpose}", hint)


class BatchLimit:
    """How many images fit in memory at a time.

    Attributes:
        max_images: None until memory runs out for the first time.
    """

    def __init__(self, max_images: int | None = None) -> None:
        self.max_images = max_images

    def reduce_after(self, error: RuntimeError, n_images: int) -> None:
        """Halve the limit after `error` was raised with `n_images` images at a time.

        Raises:
            RuntimeError: `error` itself, if it has another cause.
            UserError: not even one image fits.
        """
        if not is_out_of_memory(error):
            raise error
        n_images = min(n_images, self.max_images or n_images)
        if n_images <= 1:
            raise out_of_memory_error(
                "for one image",
                "use a smaller --model or a later --freeze, or close other programs",
            ) from error
        self.max_images = -(-n_images // 2)
        # The failed attempt left blocks of the wrong size in the allocator's cache.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
