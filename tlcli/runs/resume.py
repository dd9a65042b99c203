"""A run that goes on from what an earlier process left in its folder."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from tlcli.artifacts import checkpoint
from tlcli.artifacts import run_folder as run
from tlcli.data.dataset import Dataset
from tlcli.errors import UsageError, UserError
from tlcli.planning.choose_training import with_more_epochs
from tlcli.planning.plan import Plan
from tlcli.reporter import Reporter
from tlcli.runs.config_file import absolute
from tlcli.runs.initial_model import InitialModel
from tlcli.runs.options import Options
from tlcli.runs.request import RunRequest, added_epochs
from tlcli.runs.writer import versions
from tlcli.text import shorten_list

CHANGEABLE = ("cache", "cache_limit", "checkpoint_minutes", "log")
"""Options that may change when a run goes on: the result does not depend on them."""


def reopen_run(folder: Path, data: str | Path | None, given: Mapping[str, Any]) -> RunRequest:
    """The run in `folder`, as it was left. Nothing is changed there.

    Args:
        data: where its images are now; None: where they were.
        given: options by name; they must not contradict the run's, but for `CHANGEABLE` and epochs
            that are added ("+10").

    Raises:
        UsageError: options contradict it.
        UserError: there is no run, it has ended or cannot go on here, or its files are damaged.
    """
    written = run.read_run_json(folder)
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
    more = added_epochs(given)
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
        options = replace(options, epochs=plan.training.epochs)
    elif status == "finished" and not (state or {}).get("extended"):
        raise UserError(
            f"{folder} has finished: nothing is left to resume",
            "--epochs +10 trains it longer; --model names it as the start of a new run",
        )
    options = replace(options, **{k: v for k, v in given.items() if k in CHANGEABLE})
    root = Path(data if data is not None else went_in["dataset"]["root"])
    if data is None and not root.exists():
        raise UserError(
            f"the images of {folder} were in {root}, which is not there any more",
            f"tlcli finetune DIR --resume {folder} says where they are now",
        )
    return RunRequest(root, options, folder, went_in, state, plan)


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
    resolved |= dict(zip(("device", "precision"), went_in["compute"].split(), strict=False))
    if plan is not None:
        resolved |= {"case": plan.case, "size": plan.size, "similarity": plan.similarity}
        resolved |= asdict(plan.training)
    wrong = []
    for name in given.keys() - set(CHANGEABLE):
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
    config, fit = plan.training, state["fit"]
    last_phase = not config.head_first or state["phase"] > 0
    early = last_phase and 0 < config.patience <= fit["worse"]
    done = fit["steps"]["epoch"] if early else config.epochs
    plan = replace(plan, training=with_more_epochs(config, done + more))
    fit = {**fit, "worse": 0} if last_phase else fit
    asked = {**state["run"]["options"], "epochs": plan.training.epochs}
    went_in = {**state["run"], "plan": plan.to_dict(), "options": asked}
    # Until run.json says so too, this tells a run that was killed from one that has finished.
    return {**state, "run": went_in, "fit": fit, "extended": True}, plan


def check_same(
    start: RunRequest, scanned: Dataset, origin: InitialModel, reporter: Reporter
) -> Dataset:
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
    return shorten_list(sorted(told)) or "as many of each class, but not the same ones"
