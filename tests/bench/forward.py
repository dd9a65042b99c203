"""What the parts of the feature pass cost: `python -m tests.bench.forward [rounds]`.

Decoding alone, the forward alone (plain eager fp32 in a process of its own, since tlcli keeps
memory between batches for its whole process, and once more in this one; the engine in fp32 and
bf16, compiled where asked with --compile), both together against the bound, the head, starting up,
and memory. Every
contender runs once a round, in turn, each in a process of its own where memory or start-up is
measured; medians. Writes docs/measured/features.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.bench.regret import SHARED
from tlcli.backbones import build
from tlcli.data.dataset import Sample, scan
from tlcli.data.loader import load_batches
from tlcli.features.extract import extract_features
from tlcli.features.extractor import FeatureExtractor
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device, native_bf16
from tlcli.runtime.workers import map_in_workers
from tlcli.training.logistic_regression import solve

ROOT = Path(__file__).parent.parent.parent
FLOWERS = SHARED / "data" / "flowers"
BATCHES = {"efficientnet_lite0": 8, "vgg16": 2}
"""Batches a worker of each forward measurement."""
IMAGES = 400
PLAIN = "plain eager fp32, batches of 32"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# What the parts cost",
        "",
        f"Made by `python -m tests.bench.forward {asked.rounds}` on {cores} cores ({_cpu()}, torch "
        f"{torch.__version__}, bf16 {'native' if native_bf16() else 'emulated'}): medians of "
        f"{asked.rounds} rounds in which every contender ran once. The machine's load at the end "
        f"was {{load}}.",
    ]
    for name in BATCHES:
        lines += ["", f"## `{name}`, images/s", "", *forwards(name, asked.rounds, asked.compile)]
    lines += ["", "## The feature pass against its bound", "", *whole(asked.rounds, cores)]
    lines += ["", "## The head", "", *heads()]
    lines += ["", "## Starting", "", *starts(asked.rounds)]
    print("\n".join(lines), flush=True)  # what follows takes long, and this should not be lost
    lines += ["", "## Memory of the feature pass", "", *memory()]
    text = "\n".join(lines).replace("{load}", f"{os.getloadavg()[0]:.1f}") + "\n"
    (ROOT / "docs" / "measured" / "features.md").write_text(text)
    print(text)


def forwards(name: str, rounds: int, compiled: bool) -> list[str]:
    """The frozen forward alone, on random pixels."""
    backbone = build.load_backbone(name) if name == "efficientnet_lite0" else build.build(name)
    eager = nn.Sequential(*backbone.stages[:-1]).eval()
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 224, 224), generator=draw, dtype=torch.uint8)
    workers = choose_device("cpu", "fp32").workers
    plain = images.repeat(2, 1, 1, 1)

    @torch.no_grad()
    def plainly() -> int:
        for _ in range(BATCHES[name]):
            eager(backbone.preprocessing.normalize(plain))
        return BATCHES[name] * len(plain)

    def quickly(forward: FeatureExtractor) -> Callable[[], int]:
        def run() -> int:
            n = BATCHES[name] * workers
            list(map_in_workers(forward, [images] * n, forward.compute))
            return n * len(images)

        return run

    contenders: dict[str, Callable[[], int]] = {f"{PLAIN}, our memory": plainly}
    for precision in ("fp32", "bf16"):
        for made in (False, True) if compiled else (False,):
            copied = nn.Sequential(*build_again(name).stages[:-1])
            compute = choose_device("cpu", precision, made)
            forward = FeatureExtractor(copied, backbone.preprocessing, compute)
            label = f"engine, {precision}" + (", compiled" if made else "")
            contenders[label] = quickly(forward)
    for run in contenders.values():
        run()
    rates: dict[str, list[float]] = {label: [] for label in (PLAIN, *contenders)}
    for _ in range(rounds):
        rates[PLAIN].append(_elsewhere(f"_plain({name!r})")["rate"])
        for label, run in contenders.items():
            started = time.perf_counter()
            n = run()
            rates[label].append(n / (time.perf_counter() - started))
    return _table(rates, "images/s")


def _plain(name: str) -> None:
    """Prints the rate of the plain network in a process that keeps no memory between batches."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    backbone = build_again(name)
    eager = nn.Sequential(*backbone.stages[:-1]).eval()
    images = torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        eager(backbone.preprocessing.normalize(images))
        started = time.perf_counter()
        for _ in range(BATCHES[name]):
            eager(backbone.preprocessing.normalize(images))
    rate = BATCHES[name] * len(images) / (time.perf_counter() - started)
    print(json.dumps({"rate": rate}))


def _elsewhere(call: str) -> dict[str, Any]:
    """What a function of this module prints in a process of its own."""
    command = [sys.executable, "-c", f"from tests.bench import forward; forward.{call}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def build_again(name: str) -> build.Backbone:
    """The stages once more: an engine lays its own in another memory format."""
    return build.load_backbone(name) if name == "efficientnet_lite0" else build.build(name)


def whole(rounds: int, cores: int) -> list[str]:
    """Decoding alone, the forward alone, both; the bound is what the cores could do of both."""
    samples = scan(FLOWERS).train[:IMAGES]
    backbone = build.load_backbone("efficientnet_lite0")
    forward = FeatureExtractor(
        nn.Sequential(*backbone.stages[:-1]), backbone.preprocessing, choose_device("cpu")
    )
    pre, batch = backbone.preprocessing, forward.compute.batch_size
    loaded = [images for images, _ in load_batches([s.path for s in samples], pre, batch=batch)]

    def decoding() -> None:
        for _ in load_batches([s.path for s in samples], pre, batch=batch):
            pass

    def forwarding() -> None:
        list(map_in_workers(forward, loaded, forward.compute))

    def both() -> None:
        extract_features(samples, forward, task="pass", reporter=Reporter())

    parts = {"decode only": decoding, "forward only": forwarding, "both": both}
    seconds: dict[str, list[float]] = {label: [] for label in parts}
    shares = []
    for _ in range(rounds):
        core = {}
        for label, run in parts.items():
            started, spent = time.perf_counter(), time.process_time()
            run()
            seconds[label].append(time.perf_counter() - started)
            core[label] = time.process_time() - spent
        bound = (core["decode only"] + core["forward only"]) / cores
        shares.append(bound / seconds["both"][-1])
    rates = {label: [IMAGES / s for s in all_of] for label, all_of in seconds.items()}
    share = statistics.median(shares)
    return [
        *_table(rates, "images/s", ratios=False),
        "",
        f"The whole pass ({forward.compute.name}) reaches **{share:.0%}** of the bound: the cores "
        "over the core-seconds per image that decoding and forward take alone (target 85%).",
    ]


def heads() -> list[str]:
    """Time the solved head, on features with some signal."""
    lines = ["| images x features | classes | seconds |", "|---|---|---|"]
    for n, d, classes in (
        (1000, 1280, 5),
        (10_000, 1280, 2),
        (10_000, 1280, 10),
        (5000, 1280, 1000),
    ):
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(n) % classes
        codes = torch.randn(n, 1, d, generator=draw)
        codes[:, 0] += torch.randn(classes, d, generator=draw)[labels] * 0.1
        codes = codes.bfloat16()
        started = time.perf_counter()
        solve(codes, labels, classes, bias=True, seed=0)
        lines.append(f"| {n:,} x {d:,} | {classes} | {time.perf_counter() - started:.1f} |")
    return lines


def starts(rounds: int) -> list[str]:
    """Processes from cold: what a person waits for."""
    image = str(next((FLOWERS / "val" / "roses").iterdir()))
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TLCLI_CACHE": folder}
        tune = [sys.executable, "-m", "tlcli", "finetune", str(FLOWERS), "-q", "--output"]
        run = f"{folder}/first"
        subprocess.run([*tune, run], env=env, check=True, capture_output=True)
        commands = {
            "import torch, torchvision": [sys.executable, "-c", "import torch, torchvision"],
            "tlcli predict, one image": [
                sys.executable, "-m", "tlcli", "predict", image, "--model", run,
            ],
            "tlcli finetune, features cached": tune,
        }  # fmt: skip
        seconds: dict[str, list[float]] = {label: [] for label in commands}
        for turn in range(rounds):
            for label, command in commands.items():
                here = [*command, f"{folder}/run{turn}"] if command is tune else command
                started = time.perf_counter()
                subprocess.run(here, env=env, check=True, capture_output=True)
                seconds[label].append(time.perf_counter() - started)
    first = next(iter(commands))
    lines = ["| process | seconds | against the first |", "|---|---|---|"]
    for label, all_of in seconds.items():
        pairs = list(zip(all_of, seconds[first], strict=True))
        ratio = statistics.median(mine / base for mine, base in pairs)
        more = statistics.median(mine - base for mine, base in pairs)
        lines.append(f"| {label} | {statistics.median(all_of):.1f} | {ratio:.2f}x, {more:+.1f} s |")
    return lines


def memory() -> list[str]:
    """Peak memory of a pass over few and over many images, less what is mapped from files."""
    found = {n: _elsewhere(f"_pass({n})") for n in (1000, 20_000)}
    lines = ["| images | peak MB without mapped files | features, MB |", "|---|---|---|"]
    lines += [f"| {n:,} | {of['peak']:.0f} | {of['mapped']:.0f} |" for n, of in found.items()]
    growth = found[20_000]["peak"] / found[1000]["peak"] - 1
    return [*lines, "", f"It grows by **{growth:.1%}** (target: less than 10%)."]


def _pass(n: int) -> None:
    """A pass over n images (one picture under n names) of two views; prints what it took.

    Of the network the first stages only, whose output is pooled to 1,280 numbers: memory is what
    is measured, and the rest of it takes an hour.
    """
    from tlcli.data.augmentation.presets import parse
    from tlcli.data.augmentation.spec import make_augmentation
    from tlcli.features.cache import FeatureCache
    from tlcli.features.views import Views

    class Wide(nn.Module):
        name = "wide"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :1280]

    backbone = build.load_backbone("efficientnet_lite0")
    stages = nn.Sequential(backbone.stages[0], Wide())
    forward = FeatureExtractor(
        stages, backbone.preprocessing, choose_device("cpu"), origin=backbone.origin
    )
    image = min((FLOWERS / "train").rglob("*.jpg"), key=lambda path: path.stat().st_size)
    samples = [Sample(image, 0, f"{i:064x}") for i in range(n)]
    highest = 0

    class Watching(Reporter):
        def progress(self, *_: object, **__: object) -> None:
            nonlocal highest
            status = Path("/proc/self/status").read_text()
            (anonymous,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
            highest = max(highest, int(anonymous.split()[1]))

    with tempfile.TemporaryDirectory() as folder:
        cache, light = FeatureCache(Path(folder)), make_augmentation(parse("light"))
        codes, *_ = extract_features(
            samples, forward, task="x", views=Views(2, light), cache=cache,
            reporter=Watching(),
        )  # fmt: skip
    print(json.dumps({"peak": highest / 1000, "mapped": codes.nbytes / 1e6}))


def _table(rates: dict[str, list[float]], unit: str, ratios: bool = True) -> list[str]:
    first = next(iter(rates.values()))
    lines = [f"| what | {unit} |" + (" ratio |" if ratios else ""), "|---|---|" + "---|" * ratios]
    for label, all_of in rates.items():
        pairs = zip(all_of, first, strict=True)
        ratio = statistics.median(mine / base for mine, base in pairs)
        lines.append(
            f"| {label} | {statistics.median(all_of):.1f} |"
            + (f" {ratio:.1f}x |" if ratios else "")
        )
    return lines


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    names = path.read_text().split("model name") if path.exists() else []
    return names[1].split("\n")[0].strip("\t :") if len(names) > 1 else platform.machine()


if __name__ == "__main__":
    main()
