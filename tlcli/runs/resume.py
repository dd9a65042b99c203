"""Runs that are resumed from the files that an earlier process left in their folder."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.checkpoint import read_checkpoint
from tlcli.data.dataset import Dataset
from tlcli.errors import UsageError, UserError
from tlcli.planning.choose_training import with_more_epochs
from tlcli.planning.plan import Plan
from tlcli.reporter import Reporter
from tlcli.runs.config_file import absolute
from tlcli.runs.description import RunDescription, current_versions
from tlcli.runs.initial_model import InitialModel
from tlcli.runs.options import OPTION_TABLE, Options
from tlcli.runs.request import RunRequest, parse_epochs
from tlcli.runs.state import RunState
from tlcli.text import shorten_list

CHANGEABLE = ("cache", "cache_limit", "checkpoint_minutes", "log")
"""Options that a resumed run may change, because the result does not depend on them."""


def reopen_run(folder: Path, data: str | Path | None, given: Mapping[str, Any]) -> RunRequest:
    """Read the run in `folder` as it was left. Nothing is changed there.

    Args:
        data: the images' folder; None if it is where it was.
        given: options by name. They must not contradict the run's, except for `CHANGEABLE` and
            added epochs ("+10").

    Raises:
        UsageError: an option contradicts the run's.
        UserError: there is no run, it has ended, it cannot be resumed here, or its files are
            damaged.
    """
    status, description, state = _read_run(folder)
    options, plan = description.options, description.plan
    given = dict(given)
    added_epochs = parse_epochs(given)
    if added_epochs is not None:
        del given["epochs"]
    _check_given(folder, given, description)
    if status == "diverged":
        raise UserError(
            f"{folder}: its loss became not a number, and would do so again",
            "start a new run with a smaller --lr, or train its best weights further: "
            f"--model {folder}",
        )
    if added_epochs is not None:
        state = _add_epochs(folder, plan, state, added_epochs)
        description, options = state.run, state.run.options
    elif status == "finished" and not (state and state.extended):
        raise UserError(
            f"{folder} has finished: nothing is left to resume",
            "--epochs +10 trains it longer; --model starts a new run from it",
        )
    options = replace(options, **{k: v for k, v in given.items() if k in CHANGEABLE})
    root = Path(description.dataset.root if data is None else data)
    if data is None and not root.exists():
        raise UserError(
            f"the images of {folder} were in {root}, which does not exist any more",
            f"name their new folder: tlcli finetune DIR --resume {folder}",
        )
    return RunRequest(root, options, folder, description, state)


def _read_run(folder: Path) -> tuple[str | None, RunDescription, RunState | None]:
    """Read a run's status, its description as of its last checkpoint, and its state.

    Raises:
        UserError: there is no run, it is of other versions, or its files are damaged.
    """
    content = run.read_run_json(folder)
    if not isinstance(content.get("options"), dict):
        raise UserError(f"{folder} holds no run that can be resumed", "name a run's folder")
    stored = read_checkpoint(run.state_file(folder))
    latest = content if stored is None else stored.get("run", {})
    _check_versions(folder, latest.get("versions") or {})
    try:
        state = None if stored is None else RunState.from_dict(stored)
        description = RunDescription.from_dict(latest)
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder}/run.json is damaged ({error})", "start a new run") from error
    return content.get("status"), description, state


def _check_versions(folder: Path, recorded: Mapping[str, str]) -> None:
    differing = [
        f"{name} {recorded.get(name)} (here {version})"
        for name, version in current_versions().items()
        if recorded.get(name) != version
    ]
    if differing:
        raise UserError(
            f"{folder} was trained with {', '.join(differing)}, so its result would change",
            f"install those versions, or train its best weights further: --model {folder}",
        )


def _check_given(folder: Path, given: Mapping[str, Any], description: RunDescription) -> None:
    """Raise `UsageError` that names all options which contradict the run's."""
    options, plan = description.options, description.plan
    requested = Options(**{k: v for k, v in given.items() if k in OPTION_TABLE})
    replace(requested, model=options.model, output=None).check()
    resolved: dict[str, Any] = {"views": description.views, "output": str(folder.resolve())}
    resolved |= dict(zip(("device", "precision"), description.compute.split(), strict=False))
    if plan is not None:
        resolved |= {"case": plan.case, "size": plan.size, "similarity": plan.similarity}
        resolved |= asdict(plan.training)
    contradictions = []
    for name in given.keys() - set(CHANGEABLE):
        value = absolute(name, getattr(requested, name), Path())
        value = str(value) if isinstance(value, Path) else value
        original = getattr(options, name)
        if value not in (original, resolved.get(name)):
            used = resolved.get(name) if resolved.get(name) is not None else original
            has = "none" if used is None else used
            contradictions.append(f"{OPTION_TABLE[name].flag} {value} (the run has {has})")
    if contradictions:
        raise UsageError(
            f"--resume {folder} keeps the run's options, which contradicts "
            + ", ".join(sorted(contradictions)),
            "leave them out"
            + ("; --epochs +10 adds epochs" if "epochs" in given else "")
            + f", or start a new run from its best weights: --model {folder}",
        )


def _add_epochs(folder: Path, plan: Plan | None, state: RunState | None, added: int) -> RunState:
    """Return the state with that many more epochs in its plan.

    A run that stopped early is counted from where it stopped, and its patience starts again.
    """
    if added < 1:
        raise UsageError(f"--epochs +{added}: add at least one")
    if plan is not None and plan.training.solves_head:
        raise UserError(
            f"{folder}: its head was solved, not trained in steps, so no epochs can be added",
            f"train it further: tlcli finetune DIR --model {folder} --optimizer adamw",
        )
    if state is None or plan is None:
        raise UserError(
            f"{folder} has no checkpoint that epochs could be added to",
            f"resume it first without --epochs, or train it further: --model {folder}",
        )
    config = plan.training
    in_last_phase = not config.head_first or state.phase > 0
    stopped_early = in_last_phase and 0 < config.patience <= state.epochs_without_improvement
    done = state.epoch if stopped_early else config.epochs
    training = with_more_epochs(config, done + added)
    description = replace(
        state.run,
        plan=replace(plan, training=training),
        options=replace(state.run.options, epochs=training.epochs),
    )
    fit = {**state.fit, "worse": 0} if in_last_phase else state.fit
    return replace(state, run=description, fit=fit, extended=True)


def check_same(
    request: RunRequest, scanned: Dataset, initial_model: InitialModel, reporter: Reporter
) -> Dataset:
    """Return a resumed run's dataset, and report where the run is resumed.

    Returns:
        `scanned` without the images that the run left out.

    Raises:
        UserError: the images or the weights are not those that the run began with.
    """
    description = request.description
    assert description is not None
    recorded = description.dataset
    if scanned.digest != recorded.scanned:
        raise UserError(
            f"{request.folder} was trained on other images than those in {scanned.root}: "
            + _difference(recorded.classes, scanned.counts()),
            "put them back, or start a new run",
        )
    backbone = initial_model.backbone
    if backbone.weights_sha256 != description.weights_sha256:
        raise UserError(
            f"{request.folder} began with other weights: {description.weights} had the SHA-256 "
            f"{str(description.weights_sha256)[:12]}..., but {backbone.weights} has "
            f"{str(backbone.weights_sha256)[:12]}...",
            "put the file back, or start a new run",
        )
    state = request.state
    if state is None:
        reporter.note(f"{request.folder}: no epoch was finished, so training starts over")
    else:
        where = "within" if state.is_mid_epoch else "after"
        reporter.note(
            f"{request.folder}: resuming {where} epoch {state.epoch} (phase {state.phase + 1})"
        )
    recorded_cpu, cpu = description.machine, torch.backends.cpu.get_cpu_capability()
    if recorded_cpu != cpu:
        reporter.warn(
            f"the run began on a machine with {recorded_cpu}, and this one has {cpu}: "
            "the last digits may differ"
        )
    why = "left out, as when the run began"
    return scanned.without({scanned.root / path: why for path in recorded.left_out})


def _difference(
    before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]
) -> str:
    """Name the classes that are new, are gone, or have another number of images."""
    differences = [f"class {name} is gone" for name in before.keys() - after.keys()]
    differences += [f"class {name} is new" for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        had, has = (sum(counts[name].values()) for counts in (before, after))
        if had != has:
            differences.append(f"{name} has {has} images, not {had}")
    return shorten_list(sorted(differences)) or "as many images of each class, but not the same"
