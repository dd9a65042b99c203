"""MODEL_CARD.md: what a model is, what it was measured on, and what it is not for."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlcli.artifacts.bundle import BundleMeta
from tlcli.backbones.weights import weights_license
from tlcli.metrics.metrics import Metrics
from tlcli.text import printable

CARD = "MODEL_CARD.md"

_LIMITS = """\
- It knows the classes above and no other: shown anything else it still names one of them.
- The figures hold for images like those it was measured on. Images from another camera, place or
  time can do worse, and how much is not known until it is measured.
- Images are cut to their centre square: what lies at the edge of a wide picture is not seen.
- Nobody has looked for unfairness between groups of people or places. Do not let it decide alone
  about anyone.
"""


def model_card(meta: BundleMeta, run: Mapping[str, Any]) -> str:
    """The page as Markdown; every name in it is escaped, and missing facts are said to be unknown.

    Args:
        run: run.json's content; empty where it is not there any more.
    """
    data = run.get("dataset")
    root = _at(data, "root")
    name = Path(root).name if isinstance(root, str) else ""
    title = f"{escaped(name)}: {meta.backbone}" if name else meta.backbone
    parts = [
        f"# {title}\n",
        f"An image classifier with {len(meta.classes):,} classes, made by fine-tuning the backbone "
        f"`{meta.backbone}` with tlcli. It sees {meta.preprocessing.crop} x "
        f"{meta.preprocessing.crop} pixels.\n",
        "## Data\n",
        *_data(meta, _at(data, "classes")),
        "## Plan\n",
        *_plan(meta),
        "## Metrics\n",
        *_metrics("Validation images", meta.metrics),
        *(_metrics("Test images", test) if (test := meta.metrics and meta.metrics.test) else ()),
        _probabilities(meta),
        "## Limits\n",
        _LIMITS,
        "## Licences\n",
        f"- Pretrained weights ({escaped(meta.weights)}): "
        f"{weights_license(meta.backbone, meta.weights)}",
        "- The training images and this model: unknown to tlcli; say here what holds.\n",
        "## Made with\n",
        ", ".join(f"{escaped(k)} {escaped(v)}" for k, v in sorted(meta.versions.items()))
        + f"; seed {escaped(meta.seed)}.",
    ]
    return "\n".join(parts) + "\n"


def escaped(text: object) -> str:
    """`text` as Markdown shows it letter for letter, in a line or in a table's cell.

    No marks, no HTML, and no links made of bare addresses.
    """
    plain = html.escape(printable(str(text)), quote=False)
    return re.sub(r"([\\`*_\[\]|~$:@#!]|(?<=www)\.)", r"\\\1", plain, flags=re.IGNORECASE)


def _data(meta: BundleMeta, counts: Any) -> Iterable[str]:
    yield f"Training data's digest: {escaped(meta.dataset) or 'unknown'}.\n"
    if not isinstance(counts, Mapping):
        yield f"Classes: {', '.join(map(escaped, meta.classes))}.\n"
        return
    parts = ("train", "val", "test")
    rows = [(name, *(_at(counts.get(name), part) for part in parts)) for name in meta.classes]
    yield _table(("class", *parts), rows)


def _plan(meta: BundleMeta) -> Iterable[str]:
    plan = meta.plan
    trained = plan.get("trained")
    named = ", ".join(map(escaped, trained)) if isinstance(trained, list) else "unknown"
    yield f"- Case: {escaped(plan.get('case', 'unknown'))}"
    yield f"- Frozen up to: {escaped(meta.cut)}; stages behind it dropped: {_yes(meta.dropped)}"
    yield f"- Trained: {named}"
    yield f"- Why: {escaped(plan.get('why', 'unknown'))}\n"


def _metrics(what: str, metrics: Metrics | None) -> Iterable[str]:
    if metrics is None or metrics.top1 is None:
        yield f"{what}: none, so nothing is measured.\n"
        return
    yield (
        f"{what}: **{metrics.top1:.1%}** right (top-1; 95% Wilson interval "
        f"{_percent(metrics.top1_low)} to {_percent(metrics.top1_high)}, n = {metrics.n}), "
        f"balanced accuracy {_percent(metrics.balanced_accuracy)}.\n"
    )
    rows = [
        (name, of.n, _percent(of.precision), _percent(of.recall), _percent(of.f1))
        for name, of in metrics.per_class.items()
    ]
    yield _table(("class", "n", "precision", "recall", "f1"), rows)


def _probabilities(meta: BundleMeta) -> str:
    if meta.calibration is None:
        return "Probabilities are the plain softmax, not calibrated: take them as an order only.\n"
    return f"Probabilities are calibrated by a temperature of {meta.temperature:.3g}.\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [list(head), ["---"] * len(head)]
    # names stand first; what a bundle gives in place of a number is no more to be trusted
    lines += [[escaped("" if cell is None else cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _at(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, Mapping) else None


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
