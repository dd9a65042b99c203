"""Memory that runs out: its signs, the limit on a batch, and the message."""

import pytest
import torch

from tlcli.errors import UserError
from tlcli.runtime.memory import BatchLimit, is_out_of_memory

OUT_OF_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OUT_OF_MEMORY, True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_the_errors_that_mean_too_little_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_the_limit_is_halved_until_one_image_is_left() -> None:
    limit = BatchLimit()
    for expected in (5, 3, 2, 1):
        limit.reduce_after(OUT_OF_MEMORY, 9)
        assert limit.max_images == expected
    with pytest.raises(UserError, match="not enough memory for one image") as error:
        limit.reduce_after(OUT_OF_MEMORY, 9)
    assert "--model" in error.value.hint
    assert error.value.__cause__ is OUT_OF_MEMORY


def test_a_smaller_batch_than_the_limit_lowers_it() -> None:
    limit = BatchLimit(8)
    limit.reduce_after(OUT_OF_MEMORY, 4)
    assert limit.max_images == 2


def test_another_error_passes_and_leaves_the_limit() -> None:
    limit, other = BatchLimit(8), RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError) as error:
        limit.reduce_after(other, 4)
    assert error.value is other
    assert limit.max_images == 8
