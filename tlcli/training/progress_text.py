"""The lines that report the progress of a training to people."""

from collections.abc import Mapping

from tlcli.metrics.classification import MACRO_METRICS
from tlcli.text import format_duration

Figures = Mapping[str, float | int | str | None]


def validation_text(figures: Figures, metric: str) -> str:
    """Return the validation figures, such as "val 91.4% (loss 0.312)".

    The metric that selects the best epoch is added if it is neither top-1 nor the loss.
    """
    value = figures.get(f"val_{metric}") if metric in MACRO_METRICS else None
    selected = "" if value is None else f", {metric.replace('_', ' ')} {value:.1%}"
    return f"val {figures['val_top1']:.1%} (loss {figures['val_loss']:.3f}{selected})"


def epoch_text(row: Figures, n_epochs: int, metric: str) -> str:
    """Return the outcome of an epoch, with a forecast for the epochs that are left."""
    epoch, seconds = int(row["epoch"] or 1), float(row["seconds"] or 0.0)
    remaining = seconds / epoch * (n_epochs - epoch)
    left = f", about {format_duration(remaining)} left" if remaining >= 5 else ""
    val = "" if row["val_top1"] is None else f", {validation_text(row, metric)}"
    return (
        f"epoch {epoch}/{n_epochs}: train {row['train_top1']:.1%} "
        f"(loss {row['train_loss']:.3f}){val}, {row['images_per_s']:.0f} images/s{left}"
    )


def kept_text(best_epoch: int | None, patience: int) -> str:
    """Return which epoch was kept and, if `patience` is not 0, that it ended the training."""
    early = f"stopped after {patience} epochs without improvement; " if patience else ""
    best = "the weights from before training" if best_epoch is None else f"epoch {best_epoch}"
    return f"{early}kept {best}"
