"""The parts of a run that are settled before its plan is made."""

from dataclasses import dataclass
from pathlib import Path

from tlcli.data.dataset import Dataset
from tlcli.reporter import Reporter
from tlcli.runs.initial_model import InitialModel
from tlcli.runs.options import Options
from tlcli.runtime.device import Compute


@dataclass(frozen=True)
class RunContext:
    """What every step of a run shares.

    Attributes:
        folder: the run folder.
        scanned: the dataset as it was found, unreadable images included.
        initial_model: the backbone or the bundle that training starts from.
    """

    folder: Path
    options: Options
    compute: Compute
    scanned: Dataset
    initial_model: InitialModel
    reporter: Reporter
