"""The split depends on content alone, is stable, and leaves each class images on both sides."""

import hashlib
import random

import pytest

from tlcli.data.split import choose_val, split_position


def contents(count: int, prefix: str = "") -> list[str]:
    return [hashlib.sha256(f"{prefix}{i}".encode()).hexdigest() for i in range(count)]


def test_about_the_fraction_goes_to_val() -> None:
    digests = contents(5000)
    for fraction in (0.1, 0.2, 0.5):
        share = len(choose_val([digests, ["x"]], fraction, 0) & set(digests)) / 5000
        assert share == pytest.approx(fraction, abs=0.02)


def test_a_content_goes_to_val_if_its_position_is_below_the_fraction() -> None:
    digests = contents(2000)
    expected = {digest for digest in digests if split_position(digest, 5) < 0.3}
    assert choose_val([digests], 0.3, 5) == expected


def test_order_does_not_matter_and_the_seed_does() -> None:
    a, b = contents(200, "a"), contents(200, "b")
    shuffled = random.Random(0).sample(a, len(a))
    first = choose_val([a, b], 0.2, 0)
    assert choose_val([b, shuffled], 0.2, 0) == first
    assert choose_val([a, b], 0.2, 0) == first
    other = choose_val([a, b], 0.2, 1)
    assert 0 < len(first & other) < min(len(first), len(other))


def test_adding_images_moves_no_old_one() -> None:
    a, b = contents(400, "a"), contents(300, "b")
    before = choose_val([a[:100], b[:80]], 0.2, 3)
    after = choose_val([a, b], 0.2, 3)
    old = {*a[:100], *b[:80]}
    assert after & old == before
    assert after - old


def test_raising_the_fraction_only_adds_to_val() -> None:
    a, b = contents(100, "a"), contents(100, "b")
    assert choose_val([a, b], 0.2, 0) < choose_val([a, b], 0.4, 0)


def test_a_position_is_the_same_in_all_versions() -> None:
    # a change here would move images between train and val of data that people have split
    # (by coreutils: printf '0:%064d' 0 | sha256sum, its first 16 digits over 2**64)
    assert split_position("0" * 64, 0) == 0x63E9013A4EB996A4 / 2**64
    assert split_position("0" * 64, 1) != split_position("0" * 64, 0)


def test_a_class_left_without_val_takes_its_lowest() -> None:
    big, small = (
        contents(100, "a"),
        [d for d in contents(40, "b") if split_position(d, 0) > 0.2][:6],
    )
    assert choose_val([big, small], 0.2, 0) & set(small) == {
        min(small, key=lambda d: split_position(d, 0))
    }


def test_a_class_left_without_train_takes_its_highest_back() -> None:
    small = [d for d in contents(60, "b") if split_position(d, 0) < 0.2][:4]
    highest = max(small, key=lambda d: split_position(d, 0))
    assert choose_val([contents(50), small], 0.2, 0) & set(small) == set(small) - {highest}


@pytest.mark.parametrize("index", range(6))
def test_a_class_of_one_content_stays_in_train(index: int) -> None:
    lone = contents(6, "lone")[index]
    assert lone not in choose_val([contents(50), [lone, lone]], 0.9, 0)


def test_a_content_of_two_classes_is_never_taken_to_help_one() -> None:
    shared = min(contents(500), key=lambda d: abs(split_position(d, 0) - 0.25))
    own = [d for d in contents(100, "b") if split_position(d, 0) > 0.3][:3]
    taken = choose_val([[shared, *contents(50, "a")], [shared, *own]], 0.2, 0)
    assert shared not in taken
    assert taken & set(own) == {min(own, key=lambda d: split_position(d, 0))}


def test_every_class_keeps_train_whatever_is_shared() -> None:
    rng = random.Random(0)
    pool = contents(12)
    for seed in range(300):
        classes = [rng.sample(pool, rng.randint(1, 6)) for _ in range(4)]
        val = choose_val(classes, rng.choice((0.05, 0.5, 0.95)), seed)
        assert all(set(digests) - val for digests in classes)
        for digests in classes:
            own = [d for d in digests if sum(d in other for other in classes) == 1]
            if own and len(digests) > 1:
                assert val & set(digests), (seed, classes)
