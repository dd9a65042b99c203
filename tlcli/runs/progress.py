"""The results of a run's training phases so far."""

from dataclasses import dataclass, field

from tlcli.backbones.network import Network
from tlcli.data.dataset import Dataset
from tlcli.features.sources import FeatureSource, FeatureSources
from tlcli.planning.training_config import TrainingConfig
from tlcli.training.epoch import HistoryRow
from tlcli.training.trainer import FitResult


@dataclass(frozen=True)
class PhaseInputs:
    """What a phase trains, on which features, and how.

    Attributes:
        network: the network, cut where the phase has its cut.
        held_out: features of the training images that are held out for calibration, if any.
    """

    network: Network
    config: TrainingConfig
    sources: FeatureSources
    held_out: FeatureSource | None


@dataclass
class TrainingProgress:
    """The results of a run's training phases so far; each phase adds its own.

    Attributes:
        dataset: the images that are used; a phase may find unreadable ones.
        improved: whether the network is better than the one that the run began with.
        history: one row per epoch of the finished phases.
        latest: the inputs of the phase that was begun last; None before the first phase.
        result: the result of the phase that was finished last.
    """

    dataset: Dataset
    improved: bool = False
    history: list[HistoryRow] = field(default_factory=list)
    latest: PhaseInputs | None = None
    result: FitResult = field(default_factory=FitResult)

    @property
    def has_best(self) -> bool:
        """Whether there are trained weights to save.

        A resumed run has them only in its checkpoint until its first phase ends.
        """
        return self.improved and bool(self.result.best_tensors)

    @property
    def status(self) -> str:
        """How the run ended, in the words of run.json."""
        stopped = self.result.stopped
        return stopped if stopped in ("interrupted", "diverged") else "finished"
