"""The state that a run's checkpoint holds, from which it is resumed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tlcli.runs.description import RunDescription
from tlcli.training.epoch import HistoryRow
from tlcli.training.trainer import State


@dataclass(frozen=True)
class RunState:
    """Where a run stands.

    Attributes:
        run: the run's description.
        phase: index of the phase that is being trained.
        history: one row per epoch of the phases before it.
        trained: whether those phases improved the network.
        seconds: how long the run has taken so far.
        fit: the phase's own state; see `tlcli.training.trainer.fit`.
        extended: epochs were added that run.json does not know of yet. It tells a run that was
            killed while it was extended from one that has finished.
    """

    run: RunDescription
    phase: int
    history: list[HistoryRow]
    trained: bool
    seconds: float
    fit: State
    extended: bool = False

    @property
    def epoch(self) -> int:
        """The epoch of the phase that was reached."""
        return self.fit["steps"]["epoch"]

    @property
    def is_mid_epoch(self) -> bool:
        """Whether a part of the epoch is still to be trained."""
        return bool(self.fit["steps"]["part"])

    @property
    def epochs_without_improvement(self) -> int:
        """How many epochs in a row were no improvement."""
        return self.fit["worse"]

    @property
    def epochs_done(self) -> int:
        """Epochs of all phases."""
        return len(self.history) + len(self.fit["history"])

    @property
    def improved(self) -> bool:
        """Whether the network is better than the one that the run began with."""
        return self.trained or self.fit["best_epoch"] is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the checkpoint's content: JSON types and tensors."""
        content = {**vars(self), "run": self.run.to_dict()}
        if not self.extended:
            del content["extended"]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the content that `to_dict` returned.

        Raises:
            KeyError, TypeError: a field is missing, unknown or of another kind.
        """
        return cls(**{**content, "run": RunDescription.from_dict(content["run"])})
