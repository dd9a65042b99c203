"""Measure what the plan gives away and what it saves: `python -m tests.bench.regret`.

Each shared set is dealt into five folds. On each fold, with each of three backbones, all four cases
are forced in turn, and `tlcli plan` decides from the other four folds. Its regret is the accuracy
of the best case minus the accuracy of the case that it chooses. Outcomes are kept in
tests/bench/regret.jsonl, one per line, so the benchmark can be stopped and resumed;
docs/measured/regret.md is made from them and says how many folds there are.

Everything runs on one thread, and seconds are CPU seconds, so that runs side by side do not count
each other. The large cases are trained for three epochs in bf16. Their accuracy is that of the last
epoch: the best one would have been chosen on the very fold that it is measured on. Features are
kept between the folds, so the seconds of the small cases are those of the head, plus the images'
share of a pass that was timed on its own.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

import tlcli
from tests.bench.common import (
    SETS,
    WITH_CLASSIFIER,
    load_pretrained,
    make_parser,
    weights_option,
    write_page,
)
from tests.bench.ledger import keep, read
from tests.paths import DATA
from tlcli.features.cache import FeatureCache
from tlcli.features.stage_features import StageFeatures
from tlcli.planning.cases import CASES
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device

RESULTS = Path(__file__).with_suffix(".jsonl")
N_FOLDS = 5
N_EPOCHS = 3


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
    """Yield all jobs, fold by fold, so that what has been run is always paired."""
    for fold in range(N_FOLDS):
        for backbone in WITH_CLASSIFIER:
            for data in SETS:
                for case in ("plan", *CASES):
                    yield Job(data, backbone, fold, case)


def deal(data: str, fold: int, into: Path) -> None:
    """Link the images of `data` into train/ and val/ below `into`, with the fold as val.

    Images are dealt class by class, in the order of their content's hash.
    """
    root = DATA / data
    images: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            images.setdefault(path.parent.name, []).append(path)
    dealt = 0
    for name, paths in sorted(images.items()):
        paths.sort(key=lambda p: hashlib.sha256(p.read_bytes()).hexdigest())
        for path in paths:
            part = "val" if dealt % N_FOLDS == fold else "train"
            folder = into / part / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{dealt}{path.suffix}").symlink_to(path.resolve())
            dealt += 1


def decide(job: Job) -> dict[str, Any]:
    """Plan on the other folds; return the decision and the CPU seconds per image."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, job.data)
        deal(job.data, job.fold, root)
        planned = tlcli.plan(root, model=job.backbone, weights=weights_option(job.backbone))
        samples = planned.dataset.train[:64]
        cache = FeatureCache(Path(folder, "cache"))
        backbone = load_pretrained(job.backbone)
        passes = StageFeatures(backbone, choose_device("cpu"), cache, Reporter())
        cpu = time.process_time()
        passes.extract(samples)
        image = (time.process_time() - cpu) / len(samples)
    known = planned.plan.evidence and planned.plan.evidence.similarity
    return {
        **asdict(job),
        "takes": planned.plan.case,
        "cut": planned.plan.cut,
        "runner_up": planned.plan.runner_up,
        "score": known and round(known.score, 3),
        "n_train": len(planned.dataset.train),
        "image_s": round(image, 5),
    }


def run(job: Job) -> dict[str, Any]:
    """Force the case and count the correct predictions."""
    if job.case == "plan":
        return decide(job)
    large = CASES[job.case].size == "large"
    more: dict[str, Any] = {}
    if large:
        more = {"epochs": N_EPOCHS, "patience": 0, "precision": "bf16"}
    with tempfile.TemporaryDirectory() as folder:
        deal(job.data, job.fold, Path(folder, job.data))
        wall, cpu = time.perf_counter(), time.process_time()
        trained = tlcli.finetune(
            Path(folder, job.data),
            model=job.backbone,
            weights=weights_option(job.backbone),
            case=job.case,
            output=Path(folder, "run"),
            **more,
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rows = (trained.folder / "history.csv").read_text().splitlines()
        last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    n = trained.metrics["n"]
    return {
        **asdict(job),
        "n": n,
        "right": round(float(last["val_top1"]) * n),
        "cut": trained.plan.cut,
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class Fold:
    """The four cases on one fold.

    Attributes:
        chosen: the case that the plan chooses.
        accuracy, seconds: by case.
    """

    chosen: str
    accuracy: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def find(
        cls, found: dict[Job, dict[str, Any]], data: str, backbone: str, fold: int
    ) -> "Fold | None":
        """Collect a fold's outcomes; None before the plan has been made."""
        planned = found.get(Job(data, backbone, fold, "plan"))
        if planned is None:
            return None
        ran = {c: o for c in CASES if (o := found.get(Job(data, backbone, fold, c)))}
        views = 2 * planned["n_train"] * planned["image_s"]
        return cls(
            planned["takes"],
            {c: o["right"] / o["n"] for c, o in ran.items()},
            {c: o["cpu_s"] + (views if CASES[c].size == "small" else 0) for c, o in ran.items()},
        )

    def best(self, small: bool = False) -> str:
        """Return the most accurate case, and the cheapest among equals."""
        cases = [c for c in self.accuracy if not small or CASES[c].size == "small"]
        return max(cases, key=lambda c: (self.accuracy[c], -self.seconds[c]))

    def regret(self, small: bool = False) -> float:
        """Return how far the chosen case is behind the best, of all or of the small cases."""
        return self.accuracy[self.best(small)] - self.accuracy[self.chosen]


def row(data: str, backbone: str, folds: list[Fold]) -> str:
    """Format a row of the table."""
    chosen = ", ".join(f"{n} x {c}" for c, n in Counter(f.chosen for f in folds).items())
    cases = " | ".join(f"{100 * statistics.mean(f.accuracy[c] for f in folds):.1f}" for c in CASES)
    return (
        f"| {data} | {backbone} | {chosen} | {len(folds)} | {cases} "
        f"| {interval([100 * f.regret() for f in folds])} "
        f"| {statistics.mean(f.seconds[f.chosen] for f in folds):.0f} / "
        f"{statistics.mean(f.seconds[f.best()] for f in folds):.0f} |"
    )


def page(outcomes: list[dict[str, Any]]) -> str:
    """Write the text of docs/measured/regret.md."""
    found = {Job(*(o[f.name] for f in fields(Job))): o for o in outcomes}
    table = [
        "| set | backbone | plan chooses | folds | small-similar | small-different "
        "| large-similar | large-different | regret, points | seconds: chosen / best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    regrets: list[float] = []
    steady_regrets: list[float] = []
    small_regrets: list[float] = []
    chosen_s = best_s = 0.0
    for data in SETS:
        for backbone in WITH_CLASSIFIER:
            every = [Fold.find(found, data, backbone, fold) for fold in range(N_FOLDS)]
            known = [f for f in every if f]
            small = [f for f in known if {"small-similar", "small-different"} <= {*f.accuracy}]
            small_regrets += [f.regret(small=True) for f in small]
            folds = [f for f in known if len(f.accuracy) == len(CASES)]
            if not folds:
                continue
            regrets += [f.regret() for f in folds]
            mean = {c: statistics.mean(f.accuracy[c] for f in folds) for c in CASES}
            best = max(mean, key=lambda c: mean[c])
            steady_regrets += [f.accuracy[best] - f.accuracy[f.chosen] for f in folds]
            chosen_s += sum(f.seconds[f.chosen] for f in folds)
            best_s += sum(f.seconds[best] for f in folds)
            table.append(row(data, backbone, folds))
    if not regrets:
        raise SystemExit("no fold has all four cases yet: docs/measured/regret.md stays as it is")
    introduction = (__doc__ or "").split("\n\n")[1].replace("\n", " ")
    return (
        "# Regret: what the measured plan gives away\n\n"
        f"Made by `python -m tests.bench.regret` (torch {torch.__version__}). {introduction}\n\n"
        f"Over {len(regrets)} folds on which all four cases have been run, the regret is "
        f"**{interval([100 * r for r in regrets])} points** on average (95% interval) and "
        f"{100 * max(regrets):.1f} at most. The best of four is in part the luckiest of four: "
        "against the one case that is best over all folds of its set and backbone, the regret is "
        f"{interval([100 * r for r in steady_regrets])} points. The chosen case takes "
        f"{chosen_s / best_s:.0%} of that case's seconds. Between the two small cases alone, over "
        f"{len(small_regrets)} folds, the regret is {interval([100 * r for r in small_regrets])} "
        f"points on average and {100 * max(small_regrets):.1f} at most.\n\n" + "\n".join(table)
    )


def interval(values: list[float]) -> str:
    """Format the mean and its 95% interval by Student's t."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = t_95(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ({mean - half:.1f} to {mean + half:.1f})"


def t_95(degrees: int) -> float:
    """Compute the 97.5% quantile of Student's t, by Cornish and Fisher's expansion.

    At 4 degrees of freedom it is 1% off.
    """
    z, v = 1.959964, degrees
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def share(text: str) -> tuple[int, int]:
    """Parse the I/N of `--worker`."""
    worker, workers = map(int, text.split("/"))
    return worker, workers


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__, only="run the jobs whose name contains WORD")
    parser.add_argument(
        "--worker", type=share, default=(0, 1), metavar="I/N", help="run every Nth job"
    )
    parser.add_argument("--table", action="store_true", help="only write the page")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)
    ran = {Job(r["data"], r["backbone"], r["fold"], r["case"]) for r in read(RESULTS)}
    left = [job for job in jobs() if options.only in job.name and job not in ran]
    worker, workers = options.worker
    for job in [] if options.table else left[worker::workers]:
        keep(RESULTS, run(job))
    write_page("regret.md", page(read(RESULTS)))


if __name__ == "__main__":
    main()
