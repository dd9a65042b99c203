"""How a run begins: anew, or where an earlier process left it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tlcli.errors import UsageError
from tlcli.planning.plan import Plan
from tlcli.runs.config_file import read_toml
from tlcli.runs.options import Options


@dataclass(frozen=True)
class RunRequest:
    """What a run begins with.

    Attributes:
        folder: of the run that goes on; None: a new one.
        went_in: what that run has recorded of itself.
        state: where it goes on; None: at its beginning, with all that was resolved.
        plan: its plan, where it had got that far; with more epochs, where it is extended.
    """

    data: Path
    options: Options
    folder: Path | None = None
    went_in: Mapping[str, Any] | None = None
    state: dict[str, Any] | None = None
    plan: Plan | None = None

    @property
    def numbers(self) -> tuple[str, str]:
        """The names of the device and the precision."""
        if self.went_in is None:
            return self.options.device, self.options.precision
        name, precision, *_ = self.went_in["compute"].split()
        return name, precision

    @property
    def threads(self) -> int:
        """On how many the run has computed."""
        return self.went_in["threads"] if self.went_in else torch.get_num_threads()

    @property
    def views(self) -> int | None:
        """Remembered views an image, where that is decided."""
        return self.went_in["views"] if self.went_in else None

    @property
    def phase(self) -> int:
        """The index of the phase to go on with; `fit` is its state."""
        return self.state["phase"] if self.state else 0

    @property
    def fit(self) -> dict[str, Any] | None:
        return self.state["fit"] if self.state else None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of the phases before that one."""
        return self.state["history"] if self.state else []

    @property
    def trained(self) -> bool:
        """Whether there is something better than the beginning."""
        if self.state is None:
            return False
        return self.state["trained"] or self.state["fit"]["best_epoch"] is not None

    @property
    def epochs_done(self) -> int:
        """In all phases."""
        return len(self.history) + len(self.fit["history"] if self.fit else [])

    @property
    def seconds(self) -> float:
        """What the run has taken so far."""
        return float(self.state["seconds"]) if self.state else 0.0


def new_run(
    data: str | Path | None, config: str | Path | None, given: Mapping[str, Any]
) -> RunRequest:
    """A new run with the options in the file `config`, if any; those in `given` win.

    Raises:
        UserError: what is wrong with the file or the options, or there is no folder of images.
    """
    told = {**(read_toml(Path(config)) if config else {}), **given}
    named = told.pop("data", None)
    data = named if data is None else data
    if data is None:
        raise UsageError("no folder of images is named", "tlcli finetune DIR")
    if added_epochs(told) is not None:
        raise UsageError(
            f"--epochs {told['epochs']} adds to a run's epochs", "name the run with --resume"
        )
    options = Options(**told)
    options.check()
    return RunRequest(Path(data), options)


def added_epochs(given: dict[str, Any]) -> int | None:
    """The epochs that "+10" adds; any other text under "epochs" becomes the number it says."""
    said = given.get("epochs")
    if not isinstance(said, str):
        return None
    if not re.fullmatch(r"\+?\d+", said):
        raise UsageError(f"--epochs {said!r} is not a whole number", "such as 10, or +10")
    if said.startswith("+"):
        return int(said)
    given["epochs"] = int(said)
    return None
