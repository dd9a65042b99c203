"""Accuracy, intervals and the confusion matrix on answers worked out by hand."""

import json
from dataclasses import replace

import pytest
import torch

from tlcli.metrics.classification import compute_metrics, metrics_of_no_images
from tlcli.metrics.intervals import wilson_interval
from tlcli.metrics.metrics import Agreement, ClassMetrics, Metrics, accuracy_text


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # statsmodels.stats.proportion.proportion_confint(right, n, method="wilson")
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (356, 400, 0.85548, 0.91707),
        (1, 2, 0.09453, 0.90547),
    ],
)
def test_wilson_interval(right, n, low, high):
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_of_nothing_knows_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_score_by_hand():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    answers = torch.tensor([0, 0, 1, 1, 2, 2])
    logits = torch.nn.functional.one_hot(answers, 4).float() * 9
    got = compute_metrics(logits, labels, ("a", "b", "c", "d"))
    assert got.n == 6
    assert got.top1 == pytest.approx(4 / 6)
    assert got.confusion == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert vars(got.per_class["a"]) == pytest.approx(
        {"n": 3, "precision": 1.0, "recall": 2 / 3, "f1": 0.8}
    )
    assert got.per_class["d"] == ClassMetrics()
    assert got.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert got.top5 is None


def test_top5_counts_where_there_are_more_than_five_classes():
    logits = torch.arange(7.0).repeat(2, 1)
    got = compute_metrics(logits, torch.tensor([2, 1]), tuple("abcdefg"))
    assert got.top5 == pytest.approx(0.5)


def test_accuracy_text_has_n_and_interval():
    metrics = Metrics(top1=0.89, top1_low=0.8555, top1_high=0.9171, n=400)
    assert accuracy_text(metrics) == "89.0% (95% interval 85.5 to 91.7, n = 400)"
    assert "not measured" in accuracy_text(metrics_of_no_images(("a", "b")))


SHARES = ("top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high")
ERRORS = ("ece", "raw_ece", "difference")


def test_metrics_json_has_its_keys_in_their_order_and_comes_back():
    labels = torch.tensor([0, 1, 1, 0])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.0]])
    metrics = compute_metrics(logits, labels, ("a", "b"), temperature=1.5)
    content = metrics.to_dict()
    keys = ("n", *SHARES, "loss", "balanced_accuracy", "per_class", "confusion", "calibration")
    assert tuple(content) == keys
    assert tuple(content["per_class"]["a"]) == ("n", "precision", "recall", "f1")
    with_ends = [f"{name}{end}" for name in ERRORS for end in ("", "_low", "_high")]
    assert list(content["calibration"]) == ["temperature", *with_ends]
    full = replace(metrics, agreement=Agreement("cpu bf16", 4, 3), test=metrics)
    content = json.loads(json.dumps(full.to_dict()))
    assert tuple(content) == (*keys, "agreement", "test")
    assert content["agreement"] == {"numbers": "cpu bf16", "n": 4, "same": 3}
    assert Metrics.from_dict(content) == full


@pytest.mark.parametrize(
    "content",
    [{}, {"per_class": 1, "confusion": {}, "calibration": "x", "agreement": {"n": "many"}}],
)
def test_metrics_that_lack_values_are_read_as_none(content):
    assert Metrics.from_dict({**content, "of_a_later_version": 1}) == Metrics()
