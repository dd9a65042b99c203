"""Splitting images into train and val by their content, not by name, place or order."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence


def split_position(digest: str, seed: int) -> float:
    """Return the fixed position of an image's content between 0 and 1, uniformly distributed."""
    hashed = hashlib.sha256(f"{seed}:{digest}".encode("ascii")).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64


def choose_val(classes: Sequence[Collection[str]], fraction: float, seed: int) -> frozenset[str]:
    """Choose the content digests that are used for validation.

    A content goes to val if its position is below `fraction`. So identical files, in whichever
    class, are on one side, and adding images moves no other one. A class without train images
    takes back its content with the highest position. A class without val images gives the one with
    the lowest position, unless that content is in other classes too or nothing would be left to
    train on.

    Args:
        classes: the digests of each class.
        fraction: wanted share of val, 0..1.
    """
    positions = {digest: split_position(digest, seed) for digests in classes for digest in digests}
    val = {digest for digest, position in positions.items() if position < fraction}
    # train first: taking back never takes a train image from another class
    for digests in classes:
        if digests and val.issuperset(digests):
            val.remove(max(digests, key=positions.__getitem__))
    n_classes_with = Counter(digest for digests in classes for digest in set(digests))
    for digests in classes:
        unshared = [digest for digest in digests if n_classes_with[digest] == 1]
        if val.isdisjoint(digests) and unshared and len(set(digests)) > 1:
            val.add(min(unshared, key=positions.__getitem__))
    return frozenset(val)
