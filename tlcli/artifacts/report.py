"""report.html: one page about a run that needs nothing but itself."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tlcli.artifacts.atomic import write_text
from tlcli.metrics.metrics import CalibrationError, ClassMetrics, Metrics

MOST_CLASSES = 40
"""Above this many classes a confusion table says nothing to the eye; the worst pairs do."""

RIGHT, WRONG = "42,111,151", "200,60,40"  # red, green, blue
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem;margin-bottom:0}h2{font-size:1.15rem;margin-top:2rem}
.big{font-size:2.4rem;font-weight:600;margin:.5rem 0 0}.dim{color:#666}
table{border-collapse:collapse;font-size:.9rem}td,th{padding:.25rem .6rem;text-align:right}
th{font-weight:600;border-bottom:1px solid #ccc}td:first-child,th:first-child{text-align:left}
.scroll{overflow-x:auto}.bar{background:#2a6f97;height:.7rem;display:inline-block}
svg text{font-size:11px;fill:#666}pre{white-space:pre-wrap;background:#f5f5f5;padding:.8rem}
"""


def write(
    folder: Path,
    run: Mapping[str, Any],
    metrics: Metrics,
    history: Sequence[Mapping[str, Any]],
    lr_curve: Sequence[tuple[float, float]] = (),
) -> None:
    """Write report.html into the run's folder.

    Args:
        run: what run.json says.
        history: a row an epoch.
        lr_curve: rates and losses of a learning rate range test.
    """
    write_text(folder / "report.html", page(run, metrics, history, lr_curve))


def page(
    run: Mapping[str, Any],
    metrics: Metrics,
    history: Sequence[Mapping[str, Any]],
    lr_curve: Sequence[tuple[float, float]] = (),
) -> str:
    """The page as HTML; every name in it is escaped."""
    name = escape(Path(run["dataset"]["root"]).name)
    parts = [
        f"<h1>{name}: {escape(run['backbone'])}</h1>",
        f"<p class=dim>{escape(run['status'])} in {run['seconds']:.0f} s on "
        f"{escape(run['compute'])}, weights {escape(run['weights'])}, "
        f"seed {run['options']['seed']}</p>",
        *_headline("validation images", metrics),
        *(_headline("test images", metrics.test) if metrics.test else []),
        "<p class=dim>The epoch was chosen by the validation images, so their figure leans to "
        "the bright side; test images, where there are any, had no say.</p>"
        if len(history) > 1
        else "",
        f"<h2>The plan: {escape(run['plan']['case'])}</h2><p>{escape(run['plan']['why'])}</p>"
        f"<p>Frozen up to <b>{escape(run['plan']['cut'])}</b>; trained: "
        f"<b>{escape(', '.join(run['plan']['trained']))}</b>"
        + (
            f"; dropped: {escape(', '.join(run['plan']['dropped']))}"
            if run["plan"]["dropped"]
            else ""
        )
        + ".</p>",
        _classes(metrics.per_class),
        _confusion(metrics.confusion, metrics.classes),
        _curves(history),
        rate_curve(lr_curve, run["found_lr"]) if lr_curve else "",
        _warnings(run["dataset"]["warnings"]),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>"
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def _headline(what: str, metrics: Metrics) -> list[str]:
    if metrics.top1 is None:
        return [f"<p>No {what}, so nothing is measured.</p>"]
    return [
        f"<p class=big>{metrics.top1:.1%}</p>"
        f"<p class=dim>of {metrics.n} {what} are right "
        f"(95% interval {metrics.top1_low:.1%} to {metrics.top1_high:.1%})</p>"
        f"<p class=dim>{_calibration(metrics.calibration)}</p>"
    ]


def _calibration(of: CalibrationError) -> str:
    text = f"expected calibration error {of.ece:.3f} ({of.ece_low:.3f} to {of.ece_high:.3f})"
    if of.temperature == 1:
        return text
    return f"{text}; {of.raw_ece:.3f} before the temperature of {of.temperature:.2f}"


def _classes(per_class: Mapping[str, ClassMetrics]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{m.n}<td>{_percent(m.precision)}"
        f"<td>{_percent(m.recall)}<td style='text-align:left'>"
        f"<span class=bar style='width:{(m.recall or 0) * 8:.1f}rem'></span>"
        for name, m in per_class.items()
    )
    return (
        "<h2>Classes</h2><div class=scroll><table><tr><th>class<th>images<th>precision"
        f"<th>recall<th>{rows}</table></div>"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    if len(classes) > MOST_CLASSES:
        wrong = sorted(
            (
                (count, truth, answer)
                for truth, row in zip(classes, confusion, strict=True)
                for answer, count in zip(classes, row, strict=True)
                if count and truth != answer
            ),
            reverse=True,
        )
        rows = "".join(
            f"<tr><td>{escape(truth)}<td>{escape(answer)}<td>{count}"
            for count, truth, answer in wrong[:20]
        )
        return "<h2>Most confused</h2><table><tr><th>is<th>taken for<th>images" + rows + "</table>"
    head = "".join(f"<th>{escape(name)}" for name in classes)
    body = ""
    for name, row in zip(classes, confusion, strict=True):
        total = max(sum(row), 1)
        cells = "".join(
            f"<td style='background:rgba({RIGHT if classes[j] == name else WRONG},"
            f"{count / total * 0.8:.2f})'>{count or ''}"
            for j, count in enumerate(row)
        )
        body += f"<tr><td>{escape(name)}{cells}"
    return (
        "<h2>What is taken for what</h2><p class=dim>Rows: the true class. Columns: the answer."
        f"</p><div class=scroll><table><tr><th>{head}{body}</table></div>"
    )


def _curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Training and validation accuracy by epoch, as a drawing; nothing for a single row."""
    if len(history) < 2:
        return ""
    width, height = 560, 200
    points = {"train_top1": "#999", "val_top1": "#2a6f97"}
    values = [r[k] for r in history for k in points if r[k] is not None]
    low = max(0.0, min(values) - 0.02)
    lines = ""
    for key, colour in points.items():
        place = [
            (40 + i * (width - 60) / (len(history) - 1), _y(r[key], low, height))
            for i, r in enumerate(history)
            if r[key] is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
        lines += f"<polyline points='{path}' fill=none stroke='{colour}' stroke-width=2 />"
    axis = "".join(
        f"<text x=0 y={_y(v, low, height) + 4:.0f}>{v:.0%}</text>" for v in (low, (low + 1) / 2, 1)
    )
    return (
        "<h2>Accuracy by epoch</h2><p class=dim>Blue: validation. Grey: training, on augmented "
        f"images.</p><svg viewBox='0 0 {width} {height}' width={width} role=img "
        f"aria-label='accuracy by epoch'>{axis}{lines}</svg>"
    )


def _y(value: float, low: float, height: int) -> float:
    return 10 + (height - 20) * (1 - (value - low) / (1 - low + 1e-9))


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(w)}" for w in warnings)
    return f"<h2>About the images</h2><ul>{items}</ul>"


WIDTH, HEIGHT, LEFT = 560, 200, 60


def rate_curve(curve: Sequence[tuple[float, float]], found: float) -> str:
    """The smoothed loss by learning rate (its axis logarithmic), and what was picked, as HTML.

    Args:
        curve: learning rates, growing, and the loss at each; at least two.
    """
    logs = [math.log10(lr) for lr, _ in curve]
    losses = [loss for _, loss in curve]
    low, high = min(losses), max(losses)

    def x(lr: float) -> float:
        share = (math.log10(lr) - logs[0]) / (logs[-1] - logs[0])
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - 20)

    def y(loss: float) -> float:
        return 10 + (HEIGHT - 40) * (1 - (loss - low) / (high - low + 1e-12))

    path = " ".join(f"{x(lr):.1f},{y(loss):.1f}" for lr, loss in curve)
    ticks = "".join(
        f"<text x={x(10.0**power):.0f} y={HEIGHT - 5} text-anchor=middle>1e{power}</text>"
        for power in range(math.ceil(logs[0]), math.floor(logs[-1]) + 1)
    )
    sides = "".join(f"<text x=0 y={y(loss) + 4:.0f}>{loss:.3g}</text>" for loss in (low, high))
    return (
        f"<h2>Learning rate range test</h2><p class=dim>The smoothed loss while the rate grows; "
        f"picked: {found:.1e} (red).</p><svg viewBox='0 0 {WIDTH} {HEIGHT}' width={WIDTH} role=img "
        f"aria-label='loss by learning rate'>{sides}{ticks}"
        f"<line x1={x(found):.1f} x2={x(found):.1f} y1=10 y2={HEIGHT - 30} stroke='#c8402c' />"
        f"<polyline points='{path}' fill=none stroke='#2a6f97' stroke-width=2 /></svg>"
    )
