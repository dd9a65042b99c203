"""Measure the cost of the feature pass, part by part: `python -m tests.bench.forward [rounds]`.

Measures decoding alone, the forward pass alone, both together against their bound, solving the
head, start-up and memory, and writes docs/measured/features.md. The forward pass is measured as
plain eager fp32 (in a process of its own, since tlcli keeps memory between batches for the rest of
its process, and once more in this one), and as tlcli's in fp32 and bf16, compiled too with
`--compile`. Every contender runs once per round, in alternation; where memory or start-up is
measured, in a process of its own. The figures are medians.
"""

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

from tests.bench.common import load_pretrained, make_extractor, make_parser, write_page
from tests.paths import FLOWERS, ROOT
from tlcli.backbones import build
from tlcli.data.dataset import Sample, scan
from tlcli.data.loader import load_batches
from tlcli.features.extract import extract_features
from tlcli.features.extractor import FeatureExtractor
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device, has_native_bf16
from tlcli.runtime.workers import compute_in_parallel
from tlcli.training.logistic_regression import solve

BATCHES_PER_WORKER = {"efficientnet_lite0": 8, "vgg16": 2}
PASS_IMAGES = 400
PLAIN = "plain eager fp32, batches of 32"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# What the parts cost",
        "",
        f"Made by `python -m tests.bench.forward {options.rounds}` on {cores} cores ({_cpu()}, "
        f"torch {torch.__version__}, bf16 {'native' if has_native_bf16() else 'emulated'}): "
        f"medians of {options.rounds} rounds in which every contender ran once. The machine's "
        "load at the end was {load}.",
    ]
    for name in BATCHES_PER_WORKER:
        rows = forward_passes(name, options.rounds, options.compile)
        lines += ["", f"## `{name}`, images/s", "", *rows]
    lines += ["", "## The feature pass against its bound", "", *feature_pass(options.rounds, cores)]
    lines += ["", "## The head", "", *heads()]
    lines += ["", "## Start-up", "", *start_up(options.rounds)]
    print("\n".join(lines), flush=True)  # the memory part is slow, and this should not be lost
    lines += ["", "## Memory of the feature pass", "", *memory()]
    text = "\n".join(lines).replace("{load}", f"{os.getloadavg()[0]:.1f}")
    write_page("features.md", text)
    print(text)


def build_backbone(name: str) -> build.Backbone:
    """Build a new backbone: an extractor lays its stages out in another memory format."""
    return load_pretrained(name) if name == "efficientnet_lite0" else build.build(name)


def forward_passes(name: str, rounds: int, compiled: bool) -> list[str]:
    """Measure the frozen forward pass alone, on random pixels."""
    backbone = build_backbone(name)
    n_batches = BATCHES_PER_WORKER[name]
    eager = nn.Sequential(*backbone.stages[:-1]).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 224, 224), generator=generator, dtype=torch.uint8)
    workers = choose_device("cpu", "fp32").workers
    large_batch = images.repeat(2, 1, 1, 1)

    @torch.no_grad()
    def run_eager() -> int:
        for _ in range(n_batches):
            eager(backbone.preprocessing.normalize(large_batch))
        return n_batches * len(large_batch)

    def run_in_workers(extractor: FeatureExtractor) -> Callable[[], int]:
        def run() -> int:
            batches = [images] * (n_batches * workers)
            list(compute_in_parallel(extractor, batches, extractor.compute))
            return len(batches) * len(images)

        return run

    contenders: dict[str, Callable[[], int]] = {f"{PLAIN}, in tlcli's process": run_eager}
    for precision in ("fp32", "bf16"):
        for compile_it in (False, True) if compiled else (False,):
            compute = choose_device("cpu", precision, compile_it)
            label = f"tlcli, {precision}" + (", compiled" if compile_it else "")
            contenders[label] = run_in_workers(make_extractor(build_backbone(name), compute))
    for run in contenders.values():
        run()
    rates: dict[str, list[float]] = {label: [] for label in (PLAIN, *contenders)}
    for _ in range(rounds):
        rates[PLAIN].append(_run_in_new_process(f"_plain({name!r})")["rate"])
        for label, run in contenders.items():
            started = time.perf_counter()
            n = run()
            rates[label].append(n / (time.perf_counter() - started))
    return _table(rates, "images/s")


def _plain(name: str) -> None:
    """Print the rate of the plain network in a process that keeps no memory between batches."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    backbone = build_backbone(name)
    n_batches = BATCHES_PER_WORKER[name]
    eager = nn.Sequential(*backbone.stages[:-1]).eval()
    images = torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        eager(backbone.preprocessing.normalize(images))
        started = time.perf_counter()
        for _ in range(n_batches):
            eager(backbone.preprocessing.normalize(images))
    rate = n_batches * len(images) / (time.perf_counter() - started)
    print(json.dumps({"rate": rate}))


def _run_in_new_process(call: str) -> dict[str, Any]:
    """Call a function of this module in a new process; return the JSON that it prints."""
    command = [sys.executable, "-c", f"from tests.bench import forward; forward.{call}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def feature_pass(rounds: int, cores: int) -> list[str]:
    """Measure decoding, the forward pass and both; the bound is what the cores could do of both."""
    samples = scan(FLOWERS).train[:PASS_IMAGES]
    backbone = load_pretrained("efficientnet_lite0")
    extractor = make_extractor(backbone, choose_device("cpu"))
    pre, batch = backbone.preprocessing, extractor.compute.batch_size
    paths = [sample.path for sample in samples]
    loaded = [images for images, _ in load_batches(paths, pre, batch_size=batch)]

    def decoding() -> None:
        for _ in load_batches(paths, pre, batch_size=batch):
            pass

    def forwarding() -> None:
        list(compute_in_parallel(extractor, loaded, extractor.compute))

    def both() -> None:
        extract_features(samples, extractor, task="pass", reporter=Reporter())

    parts = {"decode only": decoding, "forward only": forwarding, "both": both}
    seconds: dict[str, list[float]] = {label: [] for label in parts}
    shares = []
    for _ in range(rounds):
        core_seconds = {}
        for label, run in parts.items():
            started, spent = time.perf_counter(), time.process_time()
            run()
            seconds[label].append(time.perf_counter() - started)
            core_seconds[label] = time.process_time() - spent
        bound = (core_seconds["decode only"] + core_seconds["forward only"]) / cores
        shares.append(bound / seconds["both"][-1])
    rates = {label: [PASS_IMAGES / s for s in values] for label, values in seconds.items()}
    share = statistics.median(shares)
    return [
        *_table(rates, "images/s", ratios=False),
        "",
        f"The whole pass ({extractor.compute.name}) reaches **{share:.0%}** of the bound: the "
        "cores over the core-seconds per image that decoding and forward take alone (target 85%).",
    ]


def heads() -> list[str]:
    """Time solving the head, on features with some signal."""
    lines = ["| images x features | classes | seconds |", "|---|---|---|"]
    for n, d, classes in (
        (1000, 1280, 5),
        (10_000, 1280, 2),
        (10_000, 1280, 10),
        (5000, 1280, 1000),
    ):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(n) % classes
        features = torch.randn(n, 1, d, generator=generator)
        features[:, 0] += torch.randn(classes, d, generator=generator)[labels] * 0.1
        features = features.bfloat16()
        started = time.perf_counter()
        solve(features, labels, classes, bias=True, seed=0)
        lines.append(f"| {n:,} x {d:,} | {classes} | {time.perf_counter() - started:.1f} |")
    return lines


def start_up(rounds: int) -> list[str]:
    """Time processes from a cold start, as a person waits for them."""
    image = str(next((FLOWERS / "val" / "roses").iterdir()))
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TLCLI_CACHE": folder}
        tlcli = [sys.executable, "-m", "tlcli"]
        finetune = [*tlcli, "finetune", str(FLOWERS), "-q", "--output"]
        run = f"{folder}/first"
        subprocess.run([*finetune, run], env=env, check=True, capture_output=True)
        commands = {
            "import torch, torchvision": [sys.executable, "-c", "import torch, torchvision"],
            "tlcli predict, one image": [*tlcli, "predict", image, "--model", run],
            "tlcli finetune, features cached": finetune,
        }
        seconds: dict[str, list[float]] = {label: [] for label in commands}
        for number in range(rounds):
            for label, command in commands.items():
                output = [f"{folder}/run{number}"] if command is finetune else []
                started = time.perf_counter()
                subprocess.run([*command, *output], env=env, check=True, capture_output=True)
                seconds[label].append(time.perf_counter() - started)
    first = next(iter(commands))
    lines = ["| process | seconds | against the first |", "|---|---|---|"]
    for label, values in seconds.items():
        pairs = list(zip(values, seconds[first], strict=True))
        ratio = statistics.median(value / base for value, base in pairs)
        more = statistics.median(value - base for value, base in pairs)
        lines.append(f"| {label} | {statistics.median(values):.1f} | {ratio:.2f}x, {more:+.1f} s |")
    return lines


def memory() -> list[str]:
    """Measure the peak memory of a pass over few and over many images, without mapped files."""
    found = {n: _run_in_new_process(f"_memory_of_pass({n})") for n in (1000, 20_000)}
    lines = ["| images | peak MB without mapped files | features, MB |", "|---|---|---|"]
    lines += [f"| {n:,} | {of['peak']:.0f} | {of['mapped']:.0f} |" for n, of in found.items()]
    growth = found[20_000]["peak"] / found[1000]["peak"] - 1
    return [*lines, "", f"It grows by **{growth:.1%}** (target: less than 10%)."]


def _memory_of_pass(n: int) -> None:
    """Print the memory of a pass over n images (one picture under n names) of two views.

    The network is only the first stage, with its output cut to 1,280 numbers: memory is measured
    here, and the other stages would take an hour.
    """
    from tlcli.data.augmentation.presets import parse_augment
    from tlcli.data.augmentation.spec import make_augmentation
    from tlcli.features.cache import FeatureCache
    from tlcli.features.views import Views

    class Wide(nn.Module):
        name = "wide"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :1280]

    backbone = load_pretrained("efficientnet_lite0")
    stages = nn.Sequential(backbone.stages[0], Wide())
    extractor = FeatureExtractor(
        stages, backbone.preprocessing, choose_device("cpu"), origin=backbone.origin
    )
    image = min((FLOWERS / "train").rglob("*.jpg"), key=lambda path: path.stat().st_size)
    samples = [Sample(image, 0, f"{i:064x}") for i in range(n)]
    peak_kb = 0

    class MemoryReporter(Reporter):
        def progress(self, *_: object, **__: object) -> None:
            nonlocal peak_kb
            status = Path("/proc/self/status").read_text()
            (anonymous,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
            peak_kb = max(peak_kb, int(anonymous.split()[1]))

    with tempfile.TemporaryDirectory() as folder:
        cache, views = (
            FeatureCache(Path(folder)),
            Views(2, make_augmentation(parse_augment("light"))),
        )
        features, *_ = extract_features(
            samples, extractor, task="x", views=views, cache=cache, reporter=MemoryReporter()
        )
    print(json.dumps({"peak": peak_kb / 1000, "mapped": features.nbytes / 1e6}))


def _table(rates: dict[str, list[float]], unit: str, ratios: bool = True) -> list[str]:
    """Format medians, with their ratios to the first row."""
    first = next(iter(rates.values()))
    lines = [f"| what | {unit} |" + (" ratio |" if ratios else ""), "|---|---|" + "---|" * ratios]
    for label, values in rates.items():
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        lines.append(
            f"| {label} | {statistics.median(values):.1f} |"
            + (f" {ratio:.1f}x |" if ratios else "")
        )
    return lines


def _cpu() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    names = path.read_text().split("model name") if path.exists() else []
    return names[1].split("\n")[0].strip("\t :") if len(names) > 1 else platform.machine()


if __name__ == "__main__":
    main()
