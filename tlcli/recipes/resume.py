"""How a run begins: anew, or from what an earlier process left in its folder."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from tlcli.artifacts import checkpoint, run
from tlcli.artifacts.files import Unwritable
from tlcli.data.dataset import Dataset
from tlcli.data.names import some
from tlcli.errors import UsageError, UserError
from tlcli.events import Reporter
from tlcli.recipes.config import absolute, read_toml
from tlcli.recipes.continuing import Origin
from tlcli.recipes.options import Options
from tlcli.recipes.record import versions
from tlcli.transfer.plan import Plan

FREE = ("cache", "cache_limit", "checkpoint_minutes", "log")
"""Options that may change when a run goes on: the result does not depend on them."""


@dataclass(frozen=True)
class Start:
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
        name, precision = self.went_in["compute"].split()
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


def anew(data: str | Path | None, config: str | Path | None, given: Mapping[str, Any]) -> Start:
    """A new run with the options in the file `config`, if any; those in `given` win.

    Raises:
        UserError: what is wrong with the file or the options, or there is no folder of images.
    """
    told = {**(read_toml(Path(config)) if config else {}), **given}
    named = told.pop("data", None)
    data = named if data is None else data
    if data is None:
        raise UsageError("no folder of images is named", "tlcli finetune DIR")
    if _added(told) is not None:
        raise UsageError(
            f"--epochs {told['epochs']} adds to a run's epochs", "name the run with --resume"
        )
    options = Options(**told)
    options.check()
    return Start(Path(data), options)


def _added(given: dict[str, Any]) -> int | None:
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


def reopen(folder: Path, data: str | Path | None, given: Mapping[str, Any]) -> Start:
    """The run in `folder`, as it was left. Nothing is changed there.

    Args:
        data: where its images are now; None: where they were.
        given: options by name; they must not contradict the run's, but for `FREE` and epochs
            that are added ("+10").

    Raises:
        UsageError: options contradict it.
        UserError: there is no run, it has ended or cannot go on here, or its files are damaged.
    """
    written = run.read_run(folder)
    if not isinstance(written.get("options"), dict):
        raise UserError(f"{folder} holds no run that can be resumed", "name a run's folder")
    state = checkpoint.read(run.state_file(folder))
    went_in = written if state is None else state["run"]
    _check_versions(folder, went_in)
    try:
        options = Options(**went_in["options"])
        plan = Plan.from_dict(went_in["plan"]) if went_in["plan"] else None
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder}/run.json is damaged ({error})", "start a new run") from error
    given = dict(given)
    more = _added(given)
    if more is not None:
        del given["epochs"]
    _check_given(folder, given, options, went_in, plan)
    status = written.get("status")
    if status == "diverged":
        raise UserError(
            f"{folder}: its loss became no number, and would again",
            f"start a new run with a smaller --lr, or train its best further: --model {folder}",
        )
    if more is not None:
        state, plan = _extended(folder, state, plan, more)
    elif status == "finished" and not (state or {}).get("extended"):
        raise UserError(
            f"{folder} has finished: nothing is left to resume",
            "--epochs +10 trains it longer; --model names it as the start of a new run",
        )
    options = replace(options, **{k: v for k, v in given.items() if k in FREE})
    root = Path(data if data is not None else went_in["dataset"]["root"])
    return Start(root, options, folder, went_in, state, plan)


def _check_versions(folder: Path, went_in: Mapping[str, Any]) -> None:
    had, have = went_in.get("versions") or {}, versions()
    differing = [f"{k} {had.get(k)} (here {v})" for k, v in have.items() if had.get(k) != v]
    if differing:
        raise UserError(
            f"{folder} was trained by {', '.join(differing)}, and would not go on as it began",
            f"install what it had, or train its best further: --model {folder}",
        )


def _check_given(
    folder: Path,
    given: Mapping[str, Any],
    options: Options,
    went_in: Mapping[str, Any],
    plan: Plan | None,
) -> None:
    """Raises `UsageError` naming all that contradicts the run."""
    known = {f.name for f in fields(Options)}
    asked = Options(**{k: v for k, v in given.items() if k in known})
    replace(asked, model=options.model, output=None).check()
    resolved: dict[str, Any] = {"views": went_in.get("views"), "output": str(folder.resolve())}
    resolved |= dict(zip(("device", "precision"), went_in["compute"].split(), strict=True))
    if plan is not None:
        resolved |= {"case": plan.case, "size": plan.size, "similarity": plan.similarity}
        resolved |= asdict(plan.schedule)
    wrong = []
    for name in given.keys() - set(FREE):
        value = absolute(name, getattr(asked, name), Path())
        value = str(value) if isinstance(value, Path) else value
        had = getattr(options, name)
        if value not in (had, resolved.get(name)):
            has = resolved.get(name) if resolved.get(name) is not None else had
            flag = name.replace("_", "-")
            wrong.append(f"--{flag} {value} (the run has {'none' if has is None else has})")
    if wrong:
        raise UsageError(
            f"--resume {folder} goes on as the run began, which contradicts "
            + ", ".join(sorted(wrong)),
            "leave them out"
            + ("; --epochs +10 adds epochs" if "epochs" in given else "")
            + f", or start a new run from its best: --model {folder}",
        )


def _extended(
    folder: Path, state: dict[str, Any] | None, plan: Plan | None, more: int
) -> tuple[dict[str, Any], Plan]:
    """The state and the plan with so many epochs more.

    One that stopped early counts from where it stopped, and its patience begins anew.
    """
    if more < 1:
        raise UsageError(f"--epochs +{more}: at least one is added")
    if plan is not None and plan.schedule.optimizer == "lbfgs":
        raise UserError(
            f"{folder}: its head was solved, not trained in steps, so no epochs can be added",
            f"train it further: tlcli finetune DIR --model {folder} --optimizer adamw",
        )
    if state is None or plan is None:
        raise UserError(
            f"{folder} has no checkpoint that epochs could be added to",
            f"resume it first without --epochs, or train it further: --model {folder}",
        )
    schedule, fit = plan.schedule, state["fit"]
    last_phase = not schedule.head_first or state["phase"] > 0
    early = last_phase and 0 < schedule.patience <= fit["worse"]
    done = fit["steps"]["epoch"] if early else schedule.epochs
    plan = replace(plan, schedule=replace(schedule, epochs=done + more))
    fit = {**fit, "worse": 0} if last_phase else fit
    went_in = {**state["run"], "plan": plan.to_dict()}
    # Until run.json says so too, this tells a run that was killed from one that has finished.
    return {**state, "run": went_in, "fit": fit, "extended": True}, plan


def check_same(start: Start, scanned: Dataset, origin: Origin, reporter: Reporter) -> Dataset:
    """The run's dataset: `scanned` without what the run has left out; says where it goes on.

    Raises:
        UserError: the images or the weights are not those that the run began with.
    """
    went_in = start.went_in or {}
    had = went_in["dataset"]
    if scanned.digest != had["scanned"]:
        raise UserError(
            f"{start.folder} was trained on other images than those in {scanned.root}: "
            + _difference(had["classes"], scanned.counts()),
            "put them back, or start a new run",
        )
    backbone = origin.backbone
    if backbone.weights_sha256 != went_in["weights_sha256"]:
        raise UserError(
            f"{start.folder} began with other weights: {went_in['weights']} had the sha256 "
            f"{str(went_in['weights_sha256'])[:12]}..., and {backbone.weights} has "
            f"{str(backbone.weights_sha256)[:12]}...",
            "put the file back, or start a new run",
        )
    if start.fit is None:
        reporter.note(f"{start.folder}: no epoch had ended, so it begins anew as it was planned")
    else:
        part = "in" if start.fit["steps"]["part"] else "behind"
        epoch = start.fit["steps"]["epoch"]
        reporter.note(f"{start.folder}: goes on {part} epoch {epoch} of phase {start.phase + 1}")
    cpu, here = went_in.get("machine"), torch.backends.cpu.get_cpu_capability()
    if cpu != here:
        reporter.warn(
            f"the run began on a {cpu} machine and this is {here}: last digits may differ"
        )
    why = "left out, as when the run began"
    return scanned.without({scanned.root / path: why for path in had["left_out"]})


def _difference(had: Mapping[str, Any], have: Mapping[str, Any]) -> str:
    """Classes that came, went or hold another number of images now."""
    told = [f"no class {name} any more" for name in had.keys() - have.keys()]
    told += [f"a new class {name}" for name in have.keys() - had.keys()]
    for name in had.keys() & have.keys():
        before, now = (sum(counts[name].values()) for counts in (had, have))
        if before != now:
            told.append(f"{name} has {now} images, not {before}")
    return some(sorted(told)) or "as many of each class, but not the same ones"


@contextmanager
def resumable(folder: Path, new: bool, reporter: Reporter) -> Iterator[None]:
    """Keep the folder of a run that is stopped, and say how it goes on.

    The folder of a new one that could not have been trained is taken back.
    """
    how = f"tlcli finetune --resume {folder} goes on"
    try:
        yield
    except Unwritable as error:
        if not run.read_run(folder):
            run.take_back(folder)
            raise
        raise UserError(error.message, f"{error.hint}; then {how}") from error
    except UserError:
        if new and not (folder / run.BUNDLE).exists():
            run.take_back(folder)
        raise
    except KeyboardInterrupt:
        reporter.note(how)
        raise
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(
            "there was not enough memory to go on training",
            f"once there is, {how}; a new run with a smaller --batch-size needs less",
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Also where torch does not give it a type: on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "can't allocate memory" in str(error)
    )
