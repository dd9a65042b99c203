"""Which images are for validation: decided by what they hold, not by name, place or order."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence


def split_position(digest: str, seed: int) -> float:
    """Where a content falls between 0 and 1, evenly and for good."""
    hashed = hashlib.sha256(f"{seed}:{digest}".encode("ascii")).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64


def choose_val(classes: Sequence[Collection[str]], fraction: float, seed: int) -> frozenset[str]:
    """The content digests that go to val, of each class's `classes[label]`.

    A content goes to val where its place is below `fraction`: identical files, in whichever
    class, fall on one side, and adding images moves no other one. A class left without train
    gives its highest place back; a class left without val takes its lowest, unless that content
    lies in other classes too or nothing would stay in train.
    """
    places = {digest: split_position(digest, seed) for contents in classes for digest in contents}
    val = {digest for digest, at in places.items() if at < fraction}
    # train first: giving back never takes a train image from another class
    for contents in classes:
        if contents and val.issuperset(contents):
            val.remove(max(contents, key=places.__getitem__))
    holders = Counter(digest for contents in classes for digest in set(contents))
    for contents in classes:
        own = [digest for digest in contents if holders[digest] == 1]
        if val.isdisjoint(contents) and own and len(set(contents)) > 1:
            val.add(min(own, key=places.__getitem__))
    return frozenset(val)
