"""The solved head: an optimum, and the standardisation folded in."""

import pytest
import torch

from tlcli.transfer.head import solve


def blobs(n=120, d=20, classes=3, views=1, seed=0):
    """Classes around their own centres, on axes of very different scale and one dead one."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=draw) * 1.5
    labels = torch.arange(n) % classes
    codes = centres[labels][:, None] + torch.randn(n, views, d, generator=draw)
    scale = torch.logspace(-2, 2, d)
    codes = codes * scale + 3
    codes[..., 0] = 7.0
    return codes, labels


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_it_tells_separable_classes_apart_at_an_optimum(bias, views):
    codes, labels = blobs(views=views)
    got = solve(codes, labels, 3, bias=bias, seed=0)
    logits = codes[:, 0] @ got.weight.T + got.bias
    assert (logits.argmax(1) == labels).float().mean() > 0.95
    assert got.gradient_norm < 1e-3
    assert torch.isfinite(got.weight).all()
    if not bias:
        assert torch.equal(got.bias, torch.zeros(3))


def test_it_is_deterministic_and_invariant_to_the_scale_of_codes():
    codes, labels = blobs()
    a, b = (solve(c, labels, 3, bias=True, seed=0) for c in (codes, codes))
    assert torch.equal(a.weight, b.weight)
    scaled = solve(codes * 10, labels, 3, bias=True, seed=0)
    logits = codes[:, 0] @ a.weight.T + a.bias
    assert torch.allclose(codes[:, 0] * 10 @ scaled.weight.T + scaled.bias, logits, atol=1e-2)


def test_cross_validation_prefers_a_strong_penalty_for_noise_and_a_weak_one_for_signal():
    draw = torch.Generator().manual_seed(1)
    noise = solve(
        torch.randn(100, 1, 50, generator=draw), torch.arange(100) % 2, 2, bias=True, seed=0
    )
    codes, labels = blobs(n=600)
    assert noise.strength > solve(codes, labels, 3, bias=True, seed=0).strength


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_handful_of_images_and_single_image_classes_are_enough(n):
    codes, labels = blobs(n=n, classes=2)
    got = solve(codes, labels, 2, bias=True, seed=0)
    assert torch.isfinite(got.weight).all()


def test_many_classes():
    codes, labels = blobs(n=400, d=64, classes=100)
    got = solve(codes, labels, 100, bias=True, seed=0)
    assert ((codes[:, 0] @ got.weight.T + got.bias).argmax(1) == labels).float().mean() > 0.9
