"""Accuracy, intervals and the confusion matrix on answers worked out by hand."""

import pytest
import torch

from tlcli.metrics.classification import accuracy_text, score
from tlcli.metrics.intervals import wilson_interval


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
    got = score(logits, labels, ("a", "b", "c", "d"))
    assert got["n"] == 6
    assert got["top1"] == pytest.approx(4 / 6)
    assert got["confusion"] == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert got["per_class"]["a"] == pytest.approx(
        {"n": 3, "precision": 1.0, "recall": 2 / 3, "f1": 0.8}
    )
    assert got["per_class"]["d"] == {"n": 0, "precision": None, "recall": None, "f1": None}
    assert got["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert got["top5"] is None


def test_top5_counts_where_there_are_more_than_five_classes():
    logits = torch.arange(7.0).repeat(2, 1)
    got = score(logits, torch.tensor([2, 1]), tuple("abcdefg"))
    assert got["top5"] == pytest.approx(0.5)


def test_accuracy_text_has_n_and_interval():
    metrics = {"top1": 0.89, "top1_low": 0.8555, "top1_high": 0.9171, "n": 400}
    assert accuracy_text(metrics) == "89.0% (95% interval 85.5 to 91.7, n = 400)"
    assert "not measured" in accuracy_text({"n": 0})
