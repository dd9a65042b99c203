"""The figures of each epoch for TensorBoard, in a run's folder."""

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
    """Raises `UserError` where TensorBoard's package is missing."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "--log tensorboard needs the package tensorboard, which is not installed",
            "pip install 'tlcli[tensorboard]'",
        )


class Board:
    """Takes the rows of epochs; `first` is the number of the next one, over all phases.

    What an earlier part of the run has logged from there on is taken back.
    """

    def __init__(self, folder: Path, first: int, options: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.number = first
        self.writer = SummaryWriter(str(folder / FOLDER), purge_step=first)
        # TensorBoard renders Markdown; indented, it is shown as it is.
        text = "".join(f"    {line}\n" for line in options.splitlines())
        self.writer.add_text("options", text, first)

    def row(self, row: Mapping[str, Any]) -> None:
        """An epoch's figures."""
        for name, tag in _TAGS.items():
            if row.get(name) is not None:
                self.writer.add_scalar(tag, row[name], self.number)
        self.writer.flush()
        self.number += 1


class NoBoard:
    """Where nothing is logged."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Nothing."""


@contextmanager
def open_board(
    log: str | None, folder: Path, first: int, options: str
) -> Iterator[Board | NoBoard]:
    """What `--log` asks for: "tensorboard", or nothing."""
    if log is None:
        yield NoBoard()
        return
    board = Board(folder, first, options)
    try:
        yield board
    finally:
        board.writer.close()
