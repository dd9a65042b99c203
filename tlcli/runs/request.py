"""The start of a run: a new one, or one that is resumed where an earlier process left it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tlcli.errors import UsageError
from tlcli.planning.plan import Plan
from tlcli.runs.config_file import read_toml
from tlcli.runs.description import RunDescription
from tlcli.runs.options import Options
from tlcli.runs.state import RunState
from tlcli.training.epoch import HistoryRow
from tlcli.training.trainer import State


@dataclass(frozen=True)
class RunRequest:
    """What a run is started with.

    Attributes:
        data: the folder of images.
        folder: the run folder of a run that is resumed; None for a new run.
        description: the description that this run recorded.
        state: where it is resumed; None at its beginning, with everything that was resolved.
    """

    data: Path
    options: Options
    folder: Path | None = None
    description: RunDescription | None = None
    state: RunState | None = None

    @property
    def device_and_precision(self) -> tuple[str, str]:
        """The names of the device and the precision."""
        if self.description is None:
            return self.options.device, self.options.precision
        name, precision, *_ = self.description.compute.split()
        return name, precision

    @property
    def threads(self) -> int:
        """How many threads torch uses: a resumed run keeps its number."""
        return self.description.threads if self.description else torch.get_num_threads()

    @property
    def plan(self) -> Plan | None:
        """The plan of a resumed run, with the epochs that were added; None before it was made."""
        return self.description.plan if self.description else None

    @property
    def views(self) -> int | None:
        """Views cached per image; None before they are chosen."""
        return self.description.views if self.description else None

    @property
    def phase(self) -> int:
        """Index of the phase to begin with; `fit` is its state."""
        return self.state.phase if self.state else 0

    @property
    def fit(self) -> State | None:
        """The state of that phase."""
        return self.state.fit if self.state else None

    @property
    def history(self) -> list[HistoryRow]:
        """One row per epoch of the phases before it."""
        return self.state.history if self.state else []

    @property
    def improved(self) -> bool:
        """Whether the network is better than the one that the run began with."""
        return self.state is not None and self.state.improved

    @property
    def epochs_done(self) -> int:
        """Epochs that were trained already, in all phases."""
        return self.state.epochs_done if self.state else 0

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return self.state.seconds if self.state else 0.0


def new_run(
    data: str | Path | None, config: str | Path | None, given: Mapping[str, Any]
) -> RunRequest:
    """Start a new run with the options of the file `config`, if any; those in `given` win.

    Raises:
        UserError: the file or an option is wrong, or no folder of images is named.
    """
    values = {**(read_toml(Path(config)) if config else {}), **given}
    data_option = values.pop("data", None)
    data = data_option if data is None else data
    if data is None:
        raise UsageError("no folder of images is named", "tlcli finetune DIR")
    if parse_epochs(values) is not None:
        raise UsageError(
            f"--epochs {values['epochs']} adds epochs to an existing run",
            "name that run with --resume",
        )
    options = Options(**values)
    options.check()
    return RunRequest(Path(data), options)


def parse_epochs(given: dict[str, Any]) -> int | None:
    """Return the number of epochs that "+10" adds; make any other text under "epochs" a number.

    Raises:
        UsageError: the text is not a whole number.
    """
    text = given.get("epochs")
    if not isinstance(text, str):
        return None
    if not re.fullmatch(r"\+?\d+", text):
        raise UsageError(f"--epochs {text!r} is not a whole number", "such as 10, or +10")
    if text.startswith("+"):
        return int(text)
    given["epochs"] = int(text)
    return None
