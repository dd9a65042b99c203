"""What the measured plan gives away, and what it saves: `python -m tests.bench.regret`.

Each shared set is dealt into five folds. On each fold, with each of three backbones, all four
cases are forced in turn, and the case that `tlcli plan` would take on the other four folds is
looked up among them: its regret is how much lower its accuracy is than that of the best of the
four. Outcomes are kept in tests/bench/regret.jsonl, one line a run, so that the benchmark can be
stopped and goes on where it was; the table in docs/regret.md is made of them.

`--only WORD` takes runs whose name holds WORD; `--worker I/N` every Nth run, for several processes.
The large cases are trained for three epochs in bf16, on one thread a process. The accuracy is that
of the last epoch: the best epoch would have been chosen on the fold that it is measured on.
"""

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tlcli
from tlcli.transfer.cases import CASES

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
RESULTS = Path(__file__).with_suffix(".jsonl")
SETS = ("caltech", "eurosat", "digits", "flowers")
WEIGHTS = {
    "squeezenet1_1": "squeezenet1_1-caffe-imagenet.pth",
    "mobilenet_v2": "mobilenet_v2-tf-imagenet.pth",
    "efficientnet_lite0": None,
}
FOLDS = 5
EPOCHS = 3


@dataclass(frozen=True)
class Job:
    """One forced case on one fold."""

    data: str
    backbone: str
    fold: int
    case: str

    @property
    def name(self) -> str:
        return f"{self.data}/{self.backbone}/{self.fold}/{self.case}"


def jobs() -> Iterator[Job]:
    """Fold by fold, so that whatever has been run is paired."""
    for fold in range(FOLDS):
        for backbone in WEIGHTS:
            for data in SETS:
                for case in CASES:
                    yield Job(data, backbone, fold, case)


def deal(data: str, fold: int, into: Path) -> None:
    """Link the images of `data` into train/ and val/ of `into`: val holds that fold.

    Images are dealt out class by class in the order of their content's hash.
    """
    root = SHARED / "data" / data
    images: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            images.setdefault(path.parent.name, []).append(path)
    dealt = 0
    for name, paths in sorted(images.items()):
        paths.sort(key=lambda p: hashlib.sha256(p.read_bytes()).hexdigest())
        for path in paths:
            part = "val" if dealt % FOLDS == fold else "train"
            folder = into / part / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{dealt}{path.suffix}").symlink_to(path.resolve())
            dealt += 1


def run(job: Job) -> dict[str, Any]:
    """Force the case and count the right answers."""
    weights = WEIGHTS[job.backbone]
    large = CASES[job.case].size == "large"
    more = {"epochs": EPOCHS, "patience": 0, "precision": "bf16"} if large else {}
    with tempfile.TemporaryDirectory() as folder:
        deal(job.data, job.fold, Path(folder, job.data))
        wall, cpu = time.perf_counter(), time.process_time()
        trained = tlcli.finetune(
            Path(folder, job.data),
            model=job.backbone,
            weights=str(SHARED / "weights" / weights) if weights else "auto",
            case=job.case,
            output=Path(folder, "run"),
            **more,
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rows = (trained.folder / "history.csv").read_text().splitlines()
        last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    n = trained.metrics["n"]
    return {
        "data": job.data,
        "backbone": job.backbone,
        "fold": job.fold,
        "case": job.case,
        "n": n,
        "right": round(float(last["val_top1"]) * n),
        "cut": trained.plan.cut,
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "torch": torch.__version__,
    }


def done() -> list[dict[str, Any]]:
    """The outcomes so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def main() -> None:
    torch.set_num_threads(1)
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    worker, workers = 0, 1
    if "--worker" in sys.argv:
        worker, workers = map(int, sys.argv[sys.argv.index("--worker") + 1].split("/"))
    RESULTS.touch()
    ran = {Job(r["data"], r["backbone"], r["fold"], r["case"]) for r in done()}
    todo = [job for job in jobs() if only in job.name and job not in ran]
    for job in todo[worker::workers]:
        outcome = run(job)
        with RESULTS.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(job.name, f"{outcome['right'] / outcome['n']:.1%}", outcome["cpu_s"], flush=True)


if __name__ == "__main__":
    main()
