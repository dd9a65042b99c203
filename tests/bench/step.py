"""A training step of the default backbone against the plain loop's: `python -m tests.bench.step`.

The plain loop is that of PyTorch's transfer learning tutorial with all layers trained: fp32, images
as NCHW, SGD with momentum. The contenders take turns, each in a process of its own, on the same
random images; medians. On one thread CPU seconds count, since other work on the machine does not
matter there; on several those of the clock.

`--model NAME`, `--threads N` (as many as there are cores, where not said).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from tlcli.backbones import build
from tlcli.backbones.network import Network, build_network
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device
from tlcli.runtime.threads import usable_cores
from tlcli.training.freezing import set_mode
from tlcli.training.gradients import Gradients
from tlcli.training.optim import make_optimizer

BATCH, ROUNDS, STEPS = 32, 3, 3
CONTENDERS = {
    "plain loop": ("", ""),
    "tlcli, fp32": ("fp32", "adapt"),
    "tlcli, bf16": ("bf16", "adapt"),
    "tlcli, bf16, BatchNorm frozen": ("bf16", "frozen"),
}
"""The precision and what BatchNorm does."""


def network(name: str) -> Network:
    made = build_network(build.load_backbone(name), cut="none", dropped=False, n_classes=5)
    made.freeze()
    return made


def plain(name: str, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    model = network(name).model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def step() -> float:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def ours(
    name: str, x: torch.Tensor, y: torch.Tensor, precision: str, batchnorm: str
) -> Callable[[], object]:
    compute = choose_device("cpu", precision)
    config = TrainingConfig(lr=1e-5, batchnorm=batchnorm)
    made = network(name)
    suffix = made.suffix.to(memory_format=torch.channels_last)
    set_mode(suffix, batchnorm)
    gradients = Gradients(suffix, config, compute)
    optimizer = make_optimizer(made, config)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step() -> float:
        total = gradients.add([(x, y)], 1, scaler, Reporter(), len(y))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total[0].item())

    return step


def seconds(name: str, contender: str, threads: int) -> list[float]:
    """Of each step but the first, which warms up."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    side = build.build(name).preprocessing.crop
    x, y = torch.randn(BATCH, 3, side, side), torch.randint(5, (BATCH,))
    precision, batchnorm = CONTENDERS[contender]
    step = ours(name, x, y, precision, batchnorm) if precision else plain(name, x, y)
    clock = time.process_time if threads == 1 else time.perf_counter
    took = []
    for _ in range(STEPS + 1):
        started = clock()
        step()
        took.append(clock() - started)
    return took[1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(seconds(asked.model, asked.one, asked.threads)))
        return
    took: dict[str, list[float]] = {key: [] for key in CONTENDERS}
    again = [sys.executable, "-m", "tests.bench.step", "--model", asked.model]
    for _ in range(ROUNDS):
        for key in CONTENDERS:
            command = [*again, "--threads", str(asked.threads), "--one", key]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            took[key] += json.loads(done.stdout.splitlines()[-1])
    base = statistics.median(took["plain loop"])
    kind = "CPU seconds" if asked.threads == 1 else "seconds"
    where = f"torch {torch.__version__}, {asked.threads} threads"
    print(f"{asked.model}, a step of {BATCH} images, {where}\n")
    print(f"| | {kind} a step | images/s | times as fast |\n|---|---|---|---|")
    for key, values in took.items():
        median = statistics.median(values)
        print(f"| {key} | {median:.2f} | {BATCH / median:.1f} | {base / median:.2f} |")


if __name__ == "__main__":
    main()
