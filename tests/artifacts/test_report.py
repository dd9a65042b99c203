"""report.html and the numbers of its drawings."""

from dataclasses import replace

import pytest

from tlcli.artifacts.report import (
    MAX_CLASSES_IN_MATRIX,
    Report,
    accuracy_chart,
    confused_classes,
    lr_chart,
    render_report,
)
from tlcli.metrics.metrics import CalibrationError, ClassMetrics, Metrics
from tlcli.planning.plan import Plan
from tlcli.planning.training_config import TrainingConfig

HOSTILE = ("<script>alert(1)</script>", "a' onload='b", "{{ 7 * 7 }}")
PLAN = Plan(
    case="small-similar", size="small", similarity="similar", cut="none", trained=("a", "head"),
    dropped=(), training=TrainingConfig(), why="because <b>",
)  # fmt: skip


def metrics_of(classes, confusion):
    """Metrics with this confusion matrix; the figures are not those of the matrix."""
    return Metrics(
        n=10, top1=0.7, top1_low=0.4, top1_high=0.9,
        per_class={name: ClassMetrics(3, precision=0.5, recall=None) for name in classes},
        confusion=confusion,
        calibration=CalibrationError(1.5, 0.1, 0.05, 0.2, 0.3, 0.2, 0.4, -0.2, -0.3, -0.1),
    )  # fmt: skip


@pytest.fixture
def report():
    matrix = [[2, 1, 0], [0, 3, 0], [4, 0, 0]]
    return Report(
        "fl<owers>", "lenet5", "none", "finished", 12.3, "cpu fp32", 0, PLAN,
        metrics_of(HOSTILE, matrix), warnings=("no <i>",),
    )  # fmt: skip


def test_names_in_the_report_are_data(report):
    text = render_report(report)
    for markup in ("<script>", "<owers>", "<b>co", "because <b>", "no <i>", "' onload"):
        assert markup not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert text.startswith("<!doctype html>")


def test_the_report_shows_what_was_measured(report):
    text = render_report(report)
    assert "Confusion matrix" in text
    assert "true class" in text
    assert "predicted class" in text
    assert "70.0%" in text
    assert "40.0% to 90.0%" in text
    assert "0.300 without the temperature of" in text
    assert "Nothing is frozen" in text
    assert "Accuracy by epoch" not in text
    assert "optimistic" not in text
    assert "Learning rate range test" not in text


def test_the_report_of_nothing_measured(report):
    assert "was not measured" in render_report(replace(report, metrics=Metrics()))


def test_the_report_of_a_trained_run_draws_its_epochs_and_its_range_test(report):
    rows = [{"train_top1": 0.5, "val_top1": None}, {"train_top1": 0.7, "val_top1": 0.6}]
    curve = [(1e-4, 2.0), (1e-3, 1.0), (1e-2, 3.0)]
    text = render_report(replace(report, history=rows, lr_curve=curve, found_lr=1e-3))
    assert text.count("<svg") == 2
    assert text.count("<polyline") == 3
    assert "slightly optimistic" in text
    assert "1.0e-03" in text
    with_test = render_report(
        replace(report, history=rows, metrics=replace(report.metrics, test=report.metrics))
    )
    assert "took no part" in with_test
    assert "test images" in with_test


def test_many_classes_are_listed_by_confused_pairs(report):
    n = MAX_CLASSES_IN_MATRIX + 1
    classes = [f"c{i}" for i in range(n)]
    confusion = [[0] * n for _ in range(n)]
    confusion[1][1], confusion[2][3], confusion[4][5] = 9, 2, 7
    metrics = metrics_of(classes, confusion)
    assert confused_classes(metrics) == [(7, "c4", "c5"), (2, "c2", "c3")]
    text = render_report(replace(report, metrics=metrics))
    assert "Most confused classes" in text
    assert "Confusion matrix" not in text


def test_the_charts_lie_in_their_frames():
    chart = lr_chart([(1e-4, 2.0), (1e-3, 1.0), (1e-2, 3.0)], 1e-3)
    assert [text for _, text in chart.x_labels] == ["1e-4", "1e-3", "1e-2"]
    assert chart.lines["loss"] == "56.0,101.0 340.0,192.0 624.0,10.0"
    assert chart.marker == pytest.approx(340)
    rows = [{"train_top1": 0.52, "val_top1": None}, {"train_top1": 1.0, "val_top1": 1.0}]
    chart = accuracy_chart(rows)
    assert [text for _, text in chart.y_labels] == ["50%", "75%", "100%"]
    assert chart.lines["val_top1"] == "624.0,10.0"
