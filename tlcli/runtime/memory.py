"""When memory runs out: the same work in smaller parts."""

import torch

from tlcli.errors import UserError

# The CPU's allocator, MPS's and CUDA's libraries raise a plain RuntimeError with such a text.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what it is about."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in SIGNS)


class Room:
    """How many images at a time there is memory for.

    `rows` is None until memory ran out for the first time: as many as come.
    """

    def __init__(self, rows: int | None = None) -> None:
        self.rows = rows

    def halve(self, error: RuntimeError, rows: int) -> None:
        """After `error` with `rows` images at a time: half of them from now on.

        Raises:
            RuntimeError: `error` itself, where it is about something else.
            UserError: not even one image fits.
        """
        if not out_of_memory(error):
            raise error
        rows = min(rows, self.rows or rows)
        if rows <= 1:
            raise UserError(
                "memory ran out with one image at a time",
                "a smaller --model, a later --freeze, or end what else uses the memory",
            ) from error
        self.rows = -(-rows // 2)
        # What the failed attempt held lies in the allocator's cache, in pieces of the wrong size.
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
