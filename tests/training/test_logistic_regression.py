"""The solved head: an optimum, with the standardization folded in."""

import pytest
import torch

from tlcli.training import logistic_regression as head
from tlcli.training import standardized_folds
from tlcli.training.logistic_regression import solve
from tlcli.training.standardized_folds import StandardizedFolds


def blobs(n=120, d=20, classes=3, views=1, seed=0):
    """Draw classes around their centers, on axes of very different scales and a constant one."""
    draw = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, d, generator=draw) * 1.5
    labels = torch.arange(n) % classes
    features = centers[labels][:, None] + torch.randn(n, views, d, generator=draw)
    scale = torch.logspace(-2, 2, d)
    features = features * scale + 3
    features[..., 0] = 7.0
    return features, labels


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_it_separates_classes_at_an_optimum(bias, views):
    features, labels = blobs(views=views)
    got = solve(features, labels, 3, bias=bias, seed=0)
    logits = features[:, 0] @ got.weight.T + got.bias
    assert (logits.argmax(1) == labels).float().mean() > 0.95
    assert got.gradient_norm < 1e-3
    assert torch.isfinite(got.weight).all()
    if not bias:
        assert torch.equal(got.bias, torch.zeros(3))


def test_it_is_deterministic_and_invariant_to_the_scale_of_features():
    features, labels = blobs()
    a, b = (solve(c, labels, 3, bias=True, seed=0) for c in (features, features))
    assert torch.equal(a.weight, b.weight)
    scaled = solve(features * 10, labels, 3, bias=True, seed=0)
    logits = features[:, 0] @ a.weight.T + a.bias
    assert torch.allclose(features[:, 0] * 10 @ scaled.weight.T + scaled.bias, logits, atol=1e-2)


def test_cross_validation_prefers_a_strong_penalty_for_noise_and_a_weak_one_for_signal():
    draw = torch.Generator().manual_seed(1)
    noise = solve(
        torch.randn(100, 1, 50, generator=draw), torch.arange(100) % 2, 2, bias=True, seed=0
    )
    features, labels = blobs(n=600)
    assert noise.l2_penalty > solve(features, labels, 3, bias=True, seed=0).l2_penalty


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_handful_of_images_and_single_image_classes_are_enough(n):
    features, labels = blobs(n=n, classes=2)
    got = solve(features, labels, 2, bias=True, seed=0)
    assert torch.isfinite(got.weight).all()


def test_many_classes():
    features, labels = blobs(n=400, d=64, classes=100)
    got = solve(features, labels, 100, bias=True, seed=0)
    assert ((features[:, 0] @ got.weight.T + got.bias).argmax(1) == labels).float().mean() > 0.9


def test_the_head_is_the_same_from_mapped_bf16_features_in_chunks(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 2, 8, generator=draw).bfloat16()
    features[:, :, 0] += labels[:, None]
    whole = solve(features.float(), labels, 3, bias=True, seed=0)
    monkeypatch.setattr(standardized_folds, "CHUNK_VALUES", 80)
    monkeypatch.setattr(standardized_folds, "MAX_CACHED_BYTES", 0)
    parts = solve(features, labels, 3, bias=True, seed=0)
    assert parts.l2_penalty == whole.l2_penalty
    assert torch.allclose(parts.weight, whole.weight, atol=1e-3)
    assert torch.allclose(parts.logits(features), whole.logits(features), atol=1e-2)


def test_class_weights_count_as_repeated_images_do():
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] * 20)
    features = torch.randn(80, 1, 4, generator=draw) + labels[:, None, None] * 1.5
    plain = solve(features, labels, 2, bias=True, seed=0)
    weights = torch.tensor([1.0, 3.0])
    weighted = solve(features, labels, 2, bias=True, seed=0, class_weights=weights)
    recall = [
        (s.logits(features).argmax(1) == labels)[labels == 1].float().mean()
        for s in (plain, weighted)
    ]
    assert recall[1] > recall[0]
    folds = StandardizedFolds(features, labels, 2, True, 0, weights)
    (w, b), norm = head._fit(folds, 0.1)
    thrice = torch.cat([torch.arange(80), torch.arange(60, 80), torch.arange(60, 80)])
    repeated = StandardizedFolds(features[thrice], labels[thrice], 2, True, 0, None)
    repeated.mean, repeated.scale = folds.mean, folds.scale
    (w2, b2), _ = head._fit(repeated, 0.1)
    assert norm < 1e-3
    assert torch.allclose(w, w2, atol=1e-3)
    assert torch.allclose(b, b2, atol=1e-3)


def test_a_thousand_classes_are_solved_on_one_fold(monkeypatch):
    monkeypatch.setattr(standardized_folds, "MAX_WORK_ON_ALL_FOLDS", 1)
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 100
    centers = torch.randn(100, 32, generator=draw) * 2
    features = (centers[labels] + torch.randn(300, 32, generator=draw))[:, None]
    got = solve(features, labels, 100, bias=True, seed=0)
    assert (got.logits(features).argmax(1) == labels).float().mean() > 0.9
    logits, which = head.held_out_logits(features, labels, 100, got.l2_penalty, bias=True, seed=0)
    assert 80 <= len(which) == len(logits) < 120
