"""Run folders: where they are, what lies in them, and which is the newest."""

import csv
import datetime
import errno
import fcntl
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.artifacts.atomic import unfinished_files, write_json, write_text
from tlcli.artifacts.checkpoint import STATE
from tlcli.errors import UserError
from tlcli.runtime.distributed.process_group import is_rank0

BUNDLE = "model.safetensors"
"""The bundle in a run folder."""
CHECKPOINT = "checkpoint"
"""The folder in a run folder that holds the state, and the best bundle so far."""
OPTIONS = "options.toml"
"""The options in a run folder."""
RUNS = Path("runs")
"""The folder that run folders are made in."""
MAX_RUNS_PER_DAY = 9_999
"""Runs of one day, dataset and backbone."""


def create_run_folder(dataset: Path, backbone: str, output: Path | None) -> Path:
    """Make a run folder: `output`, or runs/<date>-<dataset>-<backbone> with a number added.

    Raises:
        UserError: `output` already holds something.
    """
    if output is not None:
        check_free(output)
        return _make_folder(output)
    today = datetime.date.today().isoformat()
    label = re.sub(r"[^A-Za-z0-9._-]+", "_", dataset.resolve().name).strip("._") or "images"
    for number in range(1, MAX_RUNS_PER_DAY + 1):
        ending = f"-{number}" if number > 1 else ""
        folder = RUNS / f"{today}-{label}-{backbone}{ending}"
        if not folder.exists():
            return _make_folder(folder)
    raise UserError(
        f"{RUNS} already holds {MAX_RUNS_PER_DAY:,} such runs from today", "use --output"
    )


def check_free(output: Path) -> None:
    """Check that `output` is a new or an empty folder.

    Raises:
        UserError: it is anything else.
    """
    # A process that was killed before its first file was complete may have left a part of it.
    if output.exists() and (
        not output.is_dir() or set(output.iterdir()) - set(unfinished_files(output))
    ):
        raise UserError(
            f"--output {output} already exists and will not be overwritten",
            "name another folder, or remove this one first",
        )


def write_history(
    folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "history.csv"
) -> None:
    """Write a CSV file into a run folder: history.csv, one row per epoch, unless it is named."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_text(folder / name, text.getvalue())


def write_run_json(folder: Path, run: Mapping[str, Any]) -> None:
    """Write run.json, the record of a run."""
    write_json(folder / "run.json", run)


def read_run_json(folder: Path) -> dict[str, Any]:
    """Read run.json; an empty dictionary if there is none, or it cannot be read."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class ValSplit:
    """How a run split validation images off; see `tlcli.data.dataset.scan`."""

    val_fraction: float
    seed: int


@dataclass(frozen=True)
class TrainingData:
    """The folder of images that a run was trained on.

    Attributes:
        root: the folder.
        counts: images by class, then by part ("train", "val", "test"); None if unknown.
        split: None if the folder has validation images of its own, or if it is unknown.
    """

    root: Path
    counts: Mapping[str, Mapping[str, int]] | None
    split: ValSplit | None = None


def read_training_data(folder: Path) -> TrainingData | None:
    """Read from run.json what a run was trained on; None if it cannot be read."""
    content = read_run_json(folder)
    dataset = content.get("dataset")
    if not isinstance(dataset, dict) or not isinstance(dataset.get("root"), str):
        return None
    counts = dataset.get("classes")
    known = isinstance(counts, dict) and all(isinstance(of, dict) for of in counts.values())
    split = None
    if dataset.get("layout") not in (None, "train+val"):
        split = _read_split(content.get("options"))
    return TrainingData(Path(dataset["root"]), counts if known else None, split)


def _read_split(options: Any) -> ValSplit | None:
    try:
        return ValSplit(float(options["val_fraction"]), int(options["seed"]))
    except (TypeError, KeyError, ValueError):
        return None


def find_bundle(model: str | os.PathLike[str]) -> Path:
    """Find the bundle that a path names: the path itself, or the one in a run folder.

    Raises:
        UserError: there is none.
    """
    path = Path(model)
    if path.is_dir():
        if (path / BUNDLE).is_file():
            return path / BUNDLE
        saved = path / CHECKPOINT / BUNDLE
        hint = "name a run folder of tlcli finetune, or its model.safetensors"
        if read_run_json(path):
            best = f"; its best so far is {saved}" if saved.is_file() else ""
            hint = f"the run has not ended; resume it: tlcli finetune --resume {path}{best}"
        raise UserError(f"there is no {BUNDLE} in {path}", hint)
    if not path.exists():
        raise UserError(f"{path}: no such bundle or run folder", "name a run folder")
    return path


def newest_run() -> Path:
    """Find the bundle of the newest finished run in ./runs.

    Raises:
        UserError: there is none.
    """
    finished = [
        folder / BUNDLE
        for folder in (RUNS.iterdir() if RUNS.is_dir() else ())
        if (folder / BUNDLE).is_file() and read_run_json(folder).get("status") == "finished"
    ]
    if not finished:
        raise UserError(
            f"no model was named, and there is no finished run in {RUNS.resolve()}",
            "name one with --model (a bundle, a run folder or a backbone's name) or in "
            "$TLCLI_MODEL, or train one: tlcli finetune DIR",
        )
    return max(finished, key=lambda path: path.stat().st_mtime)


def state_file(folder: Path) -> Path:
    """Return the file that a run is resumed from."""
    return folder / CHECKPOINT / STATE


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder, so that no second process trains in it.

    Unfinished files that a killed process left are removed. The lock ends with the process,
    however that ends. Rank 0 holds it for all processes of a job.

    Raises:
        UserError: another process holds the lock, or there is no such folder.
    """
    if not is_rank0():
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(
            f"{folder} is not a run folder: {error.strerror}", "name a run folder"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network drives cannot lock a folder; they are trusted to have one user.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"another process is training in {folder} now",
                    "wait for it, or stop it first",
                ) from error
        for part in unfinished_files(folder):
            part.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Remove the folder of a run without a result, unless somebody else put something into it."""
    if not is_rank0():
        return
    for name in ("run.json", OPTIONS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the run folder {folder} cannot be made: {error.strerror}", "use --output"
        ) from error
    return folder
