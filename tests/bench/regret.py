"""The accuracy that the plan gives away, and the time it saves: `python -m tests.bench.regret`.

Each shared set is dealt into five folds. On each fold, with each of three backbones, all four
cases are forced in turn, and `tlcli plan` decides on the other four folds. Its regret is the
accuracy of the best of the four cases less the accuracy of the case that it takes. Outcomes are
kept in tests/bench/regret.jsonl, one line each, so that the benchmark can be stopped and resumed;
docs/measured/regret.md is made from them, and says how many folds there are.

`--only WORD` takes runs whose name holds WORD; `--worker I/N` every Nth run, for several processes;
`--table` only writes the page. Everything runs on one thread, and seconds are the processor's, so
that runs side by side do not count each other. The large cases are trained for three epochs in
bf16. The accuracy is that of the last epoch: the best one would have been chosen on the very fold
that it is measured on. Features are kept between the folds, so the small cases' seconds are those
of the head plus the images' share of a pass that was timed on its own.
"""

import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

import tlcli
from tlcli.backbones import build
from tlcli.features.cache import FeatureCache
from tlcli.features.stage_features import StageFeatures
from tlcli.planning.cases import CASES
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device

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
                for case in ("plan", *CASES):
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


def weights_of(backbone: str) -> str:
    """As for `--weights`."""
    file = WEIGHTS[backbone]
    return str(SHARED / "weights" / file) if file else "auto"


def decide(job: Job) -> dict[str, Any]:
    """What the plan takes on the other folds, and the processor's seconds for an image."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, job.data)
        deal(job.data, job.fold, root)
        planned = tlcli.plan(root, model=job.backbone, weights=weights_of(job.backbone))
        samples = planned.dataset.train[:64]
        backbone = build.load_backbone(job.backbone, weights_of(job.backbone))
        look = StageFeatures(
            backbone, choose_device("cpu"), FeatureCache(Path(folder, "cache")), Reporter()
        )
        cpu = time.process_time()
        look.extract(samples)
        image = (time.process_time() - cpu) / len(samples)
    known = planned.plan.evidence and planned.plan.evidence.familiarity
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
    """Force the case and count the right answers."""
    if job.case == "plan":
        return decide(job)
    large = CASES[job.case].size == "large"
    more = {"epochs": EPOCHS, "patience": 0, "precision": "bf16"} if large else {}
    with tempfile.TemporaryDirectory() as folder:
        deal(job.data, job.fold, Path(folder, job.data))
        wall, cpu = time.perf_counter(), time.process_time()
        trained = tlcli.finetune(
            Path(folder, job.data),
            model=job.backbone,
            weights=weights_of(job.backbone),
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


def done() -> list[dict[str, Any]]:
    """The outcomes so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def page(outcomes: list[dict[str, Any]]) -> str:
    """docs/measured/regret.md."""
    found = {Job(*(o[f.name] for f in fields(Job))): o for o in outcomes}
    table = [
        "| set | backbone | plan takes | folds | small-similar | small-different | large-similar "
        "| large-different | regret, points | seconds: taken / best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    regrets: list[float] = []
    steady: list[float] = []
    taken_s: list[float] = []
    best_s: list[float] = []
    small_regrets: list[float] = []
    for data in SETS:
        for backbone in WEIGHTS:
            folds = [Fold.of(found, data, backbone, fold) for fold in range(FOLDS)]
            whole = [f for f in folds if f and len(f.accuracy) == len(CASES)]
            some = [f for f in folds if f and {"small-similar", "small-different"} <= {*f.accuracy}]
            small_regrets += [f.regret(small=True) for f in some]
            if not whole:
                continue
            regrets += [f.regret() for f in whole]
            mean = {c: statistics.mean(f.accuracy[c] for f in whole) for c in CASES}
            best = max(mean, key=lambda c: mean[c])
            steady += [f.accuracy[best] - f.accuracy[f.takes] for f in whole]
            taken_s += [f.seconds[f.takes] for f in whole]
            best_s += [f.seconds[best] for f in whole]
            taken = ", ".join(f"{n} x {c}" for c, n in Counter(f.takes for f in whole).items())
            cases = " | ".join(
                f"{100 * statistics.mean(f.accuracy[c] for f in whole):.1f}" for c in CASES
            )
            table.append(
                f"| {data} | {backbone} | {taken} | {len(whole)} | {cases} "
                f"| {interval([100 * f.regret() for f in whole])} "
                f"| {statistics.mean(f.seconds[f.takes] for f in whole):.0f} / "
                f"{statistics.mean(f.seconds[f.best()] for f in whole):.0f} |"
            )
    if not regrets:
        raise SystemExit(
            "no fold has all four cases yet, so docs/measured/regret.md stays as it is"
        )
    head = __doc__.split("\n\n")[1].replace("\n", " ")
    return (
        "# Regret: the accuracy that the measured plan gives away\n\n"
        f"Made by `python -m tests.bench.regret` (torch {torch.__version__}). {head}\n\n"
        f"Over {len(regrets)} folds on which all four cases have been run: "
        f"**{interval([100 * r for r in regrets])} points** on average (95% interval), "
        f"{100 * max(regrets):.1f} at most. The best of four is partly the luckiest of four; "
        "against the one case that is best over all folds of its set and backbone it is "
        f"{interval([100 * r for r in steady])} points. The plan's case takes "
        f"{sum(taken_s) / sum(best_s):.0%} of that case's seconds. Between the two small cases "
        f"alone, over {len(small_regrets)} folds: "
        f"{interval([100 * r for r in small_regrets])} points, "
        f"{100 * max(small_regrets):.1f} at most.\n\n" + "\n".join(table) + "\n"
    )


@dataclass(frozen=True)
class Fold:
    """The four cases on one fold: accuracy and seconds by case, and which one the plan takes."""

    takes: str
    accuracy: dict[str, float]
    seconds: dict[str, float]

    @classmethod
    def of(cls, found: dict[Job, dict[str, Any]], data: str, backbone: str, fold: int) -> Any:
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
        """The most accurate case; of equals the cheapest."""
        cases = [c for c in self.accuracy if not small or CASES[c].size == "small"]
        return max(cases, key=lambda c: (self.accuracy[c], -self.seconds[c]))

    def regret(self, small: bool = False) -> float:
        return self.accuracy[self.best(small)] - self.accuracy[self.takes]


def interval(values: list[float]) -> str:
    """Mean and 95% interval by Student's t."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    half = t_95(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ({mean - half:.1f} to {mean + half:.1f})"


def t_95(degrees: int) -> float:
    """The 97.5% quantile of Student's t (Cornish and Fisher's expansion; 1% off at 4 degrees)."""
    z, v = 1.959964, degrees
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def main() -> None:
    torch.set_num_threads(1)
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    worker, workers = 0, 1
    if "--worker" in sys.argv:
        worker, workers = map(int, sys.argv[sys.argv.index("--worker") + 1].split("/"))
    RESULTS.touch()
    ran = {Job(r["data"], r["backbone"], r["fold"], r["case"]) for r in done()}
    todo = [job for job in jobs() if only in job.name and job not in ran]
    for job in [] if "--table" in sys.argv else todo[worker::workers]:
        outcome = run(job)
        with RESULTS.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(json.dumps(outcome), flush=True)
    (ROOT / "docs" / "measured" / "regret.md").write_text(page(done()))


if __name__ == "__main__":
    main()
