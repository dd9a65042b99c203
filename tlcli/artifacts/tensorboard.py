"""The figures of each epoch for TensorBoard, in the run folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tlcli.errors import UserError

FOLDER = "tensorboard"
_TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "train_top1": "top1/train",
    "val_top1": "top1/val",
    "lr": "lr",
    "images_per_s": "images_per_s",
}


def check_installed() -> None:
    """Check that TensorBoard is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise UserError(
            "--log tensorboard needs the package tensorboard, which is not installed",
            "pip install 'tlcli[tensorboard]'",
        )


class Board:
    """Writes TensorBoard's event files.

    Attributes:
        epoch: number of the next epoch, counted over all phases.
    """

    def __init__(self, folder: Path, first_epoch: int, options: str) -> None:
        """Open the event files in a run folder.

        Args:
            first_epoch: number of the next epoch. What an earlier part of the run logged from
                there on is discarded.
            options: the run's options as text.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.epoch = first_epoch
        self.writer = SummaryWriter(str(folder / FOLDER), purge_step=first_epoch)
        # TensorBoard renders Markdown, which shows indented text as it is.
        text = "".join(f"    {line}\n" for line in options.splitlines())
        self.writer.add_text("options", text, first_epoch)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Log the figures of the next epoch."""
        for name, tag in _TAGS.items():
            if row.get(name) is not None:
                self.writer.add_scalar(tag, row[name], self.epoch)
        self.writer.flush()
        self.epoch += 1


class NoBoard:
    """Takes the place of `Board` where nothing is logged."""

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""


@contextmanager
def open_board(
    log: str | None, folder: Path, first_epoch: int, options: str
) -> Iterator[Board | NoBoard]:
    """Open what `--log` names: "tensorboard", or None for nothing."""
    if log is None:
        yield NoBoard()
        return
    board = Board(folder, first_epoch, options)
    try:
        yield board
    finally:
        board.writer.close()
