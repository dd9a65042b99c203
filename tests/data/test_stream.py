"""Streams of images: groups, slow and failing sources, early ends."""

import threading
import time

import pytest
from PIL import Image

from tlcli.data.preprocessing import Preprocessing
from tlcli.data.stream import stream_batches
from tlcli.errors import UserError

PRE = Preprocessing(8, 8, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


BLACK = Image.new("RGB", (8, 8))


# Streams


def test_a_slow_source_gets_its_answers_while_it_waits():
    seen, go = [], threading.Event()

    def jobs():
        for name in "abc":
            yield name, BLACK
        assert go.wait(20), "nothing came while the source waited"
        yield "d", BLACK

    for group in stream_batches(jobs(), [PRE], batch_size=32, max_wait=0.05):
        seen.append((group.names, len(group.pixels[0]), group.is_last))
        go.set()
    assert seen == [(["a", "b", "c"], 4, False), (["d"], 32, True)]


def test_groups_are_full_in_order_and_padded():
    jobs = ((str(i), BLACK if i % 2 else b"bad") for i in range(70))
    groups = list(stream_batches(jobs, [PRE, PRE], batch_size=32))
    assert [len(g.names) for g in groups] == [32, 32, 6]
    assert [len(p) for g in groups for p in g.pixels] == [32] * 6
    assert [name for g in groups for name in g.names] == [str(i) for i in range(70)]
    assert [p is None for p in groups[2].problems] == [False, True] * 3
    assert list(stream_batches(iter([]), [PRE], batch_size=4)) == []
    (few,) = stream_batches([("a", BLACK)] * 3, [PRE], batch_size=32)
    assert (len(few.pixels[0]), few.is_last) == (3, True)


def test_a_source_that_fails_is_heard_after_what_came_before():
    def jobs():
        yield "a", BLACK
        raise UserError("the list is broken")

    groups = stream_batches(jobs(), [PRE], batch_size=4)
    assert next(groups).names == ["a"]
    with pytest.raises(UserError, match="list is broken"):
        next(groups)


def test_leaving_early_stops_reading():
    read = []

    def jobs():
        for i in range(10_000):
            read.append(i)
            yield str(i), BLACK

    groups = stream_batches(jobs(), [PRE], batch_size=4)
    next(groups)
    groups.close()
    time.sleep(0.5)
    assert len(read) < 50
