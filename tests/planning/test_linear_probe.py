"""Linear probes: the closed forms against fits one by one."""

import time

import pytest
import torch

from tlcli.metrics.linear_models import FOLDS, deal_folds
from tlcli.planning import linear_probe as probe
from tlcli.planning.linear_probe import balanced_weights, learning_curve


def blobs(n=120, d=10, classes=3, spread=1.0, seed=0):
    """Draw features around a center for each class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centers = torch.randn(classes, d, generator=g)
    return centers[labels] + spread * torch.randn(n, d, generator=g), labels


@pytest.mark.parametrize("d", [10, 200])  # fewer features than images, and more
def test_held_out_predictions_are_those_of_fits_without_the_fold(d, monkeypatch):
    monkeypatch.setattr(probe, "PENALTIES", (0.3,))
    features, labels = blobs(d=d, spread=3.0)
    fold = deal_folds(labels, FOLDS, 0)
    weights = balanced_weights(labels)
    x = probe._standardize(features, weights).double()
    y = probe._targets(labels).double()
    expected = torch.empty_like(labels)
    for k in range(FOLDS):
        fit, out = fold != k, fold == k
        w = weights[fit, None].double()
        gram = x[fit].T @ (w * x[fit]) / d + 0.3 * torch.eye(d)
        solved = torch.linalg.solve(gram, x[fit].T @ (w * y[fit]) / d)
        expected[out] = (x[out] @ solved).argmax(1)
    got = probe.cross_validate(features, labels, fold)
    assert (got.predicted == expected).all()
    assert got.accuracy == pytest.approx((weights * (expected == labels)).mean().item(), abs=1e-6)


def test_folds_hold_their_share_of_every_class():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2)
    fold = deal_folds(labels, FOLDS, 3)
    assert torch.bincount(fold[labels == 0]).tolist() == [10] * 5
    assert torch.bincount(fold[labels == 1]).tolist() == [2] * 5
    assert fold[labels == 2].unique().numel() == 2
    assert not torch.equal(fold, deal_folds(labels, FOLDS, 4))


def test_accuracy_is_balanced():
    features, labels = blobs(spread=0.1)
    labels = torch.where(torch.arange(len(labels)) < 100, torch.zeros_like(labels), labels)
    counts = torch.bincount(labels)
    assert counts.max() > 5 * counts.min()
    found = probe.cross_validate(features, labels, deal_folds(labels, FOLDS, 0))
    recalls = [(found.predicted == labels)[labels == c].float().mean().item() for c in range(3)]
    assert found.accuracy == pytest.approx(sum(recalls) / 3, abs=1e-6)


def test_noise_is_at_chance_and_blobs_are_separated():
    noise = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(300) % 3
    at_chance = probe.cross_validate(noise, labels, deal_folds(labels, FOLDS, 0))
    assert abs(at_chance.accuracy - 1 / 3) < 4 * at_chance.error + 0.05
    features, labels = blobs(spread=0.2)
    assert probe.cross_validate(features, labels, deal_folds(labels, FOLDS, 0)).accuracy == 1.0


def test_the_paired_error_is_smaller_than_two_unpaired_ones():
    features, labels = blobs(n=300, spread=2.5)
    fold = deal_folds(labels, FOLDS, 0)
    one = probe.cross_validate(features, labels, fold)
    g = torch.Generator().manual_seed(5)
    two = probe.cross_validate(
        features + 0.3 * torch.randn(features.shape, generator=g), labels, fold
    )
    difference, error = one.gain_over(two)
    assert difference == pytest.approx(one.accuracy - two.accuracy, abs=1e-6)
    assert 0 < error < (one.error**2 + two.error**2) ** 0.5
    assert one.gain_over(one) == (0.0, 0.0)


def test_zero_and_constant_features_do_no_harm():
    features, labels = blobs(spread=0.2)
    features = torch.cat(
        [features, torch.zeros(len(features), 3), torch.full((len(features), 1), 7.0)], 1
    )
    assert probe.cross_validate(features, labels, deal_folds(labels, FOLDS, 0)).accuracy == 1.0
    dead = probe.cross_validate(
        torch.zeros(30, 4), torch.arange(30) % 3, deal_folds(torch.arange(30) % 3, FOLDS, 0)
    )
    assert dead.accuracy <= 0.5


def test_more_images_help_where_the_problem_is_hard():
    features, labels = blobs(n=400, d=60, spread=3.0)
    curve = learning_curve(features, labels, deal_folds(labels, FOLDS, 0), (0.1, 0.5, 1.0), 0.3)
    assert [images for images, _ in curve] == [34, 161, 320]
    few, half, all_of = (found.accuracy for _, found in curve)
    assert few < half < all_of


@pytest.mark.slow
def test_nine_stages_of_a_thousand_images_take_under_three_seconds():
    labels = torch.arange(1000) % 10
    fold = deal_folds(labels, FOLDS, 0)
    widths = (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    stages = [torch.randn(1000, d, generator=torch.Generator().manual_seed(d)) for d in widths]
    started = time.perf_counter()
    for features in stages:
        probe.cross_validate(features, labels, fold)
    assert time.perf_counter() - started < 3
