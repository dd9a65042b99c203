"""Compare a training step of tlcli with the plain loop's: `python -m tests.bench.step`.

The plain loop is that of PyTorch's transfer learning tutorial with all layers trained: fp32, NCHW
images, SGD with momentum. The contenders alternate, each in a process of its own, on the same
random images; the figures are medians. On one thread CPU seconds count, since other work on the
machine does not matter there; on several threads wall time counts.
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

from tests.bench.common import make_parser
from tlcli.backbones import build
from tlcli.backbones.network import Network, build_network
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device
from tlcli.runtime.threads import usable_cores
from tlcli.training.freezing import set_train_mode
from tlcli.training.gradients import Gradients
from tlcli.training.optim import make_optimizer

BATCH_SIZE, N_ROUNDS, N_STEPS = 32, 3, 3
CONTENDERS = {
    "plain loop": ("", ""),
    "tlcli, fp32": ("fp32", "adapt"),
    "tlcli, bf16": ("bf16", "adapt"),
    "tlcli, bf16, BatchNorm frozen": ("bf16", "frozen"),
}
"""Precision and BatchNorm policy."""


def make_network(name: str) -> Network:
    """Build a network with nothing frozen."""
    network = build_network(build.load_backbone(name), cut="none", dropped=False, n_classes=5)
    network.freeze()
    return network


def plain_step(name: str, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    """Return a training step of the plain loop."""
    model = make_network(name).model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def step() -> float:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def tlcli_step(
    name: str, x: torch.Tensor, y: torch.Tensor, precision: str, batchnorm: str
) -> Callable[[], object]:
    """Return a training step of tlcli."""
    compute = choose_device("cpu", precision)
    config = TrainingConfig(lr=1e-5, batchnorm=batchnorm)
    network = make_network(name)
    suffix = network.suffix.to(memory_format=torch.channels_last)
    set_train_mode(suffix, batchnorm)
    gradients = Gradients(suffix, config, compute)
    optimizer = make_optimizer(network, config)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step() -> float:
        total = gradients.add([(x, y)], 1, scaler, Reporter(), len(y))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total[0].item())

    return step


def step_seconds(name: str, contender: str, threads: int) -> list[float]:
    """Time every step but the first, which warms up."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    side = build.build(name).preprocessing.crop
    x, y = torch.randn(BATCH_SIZE, 3, side, side), torch.randint(5, (BATCH_SIZE,))
    precision, batchnorm = CONTENDERS[contender]
    step = tlcli_step(name, x, y, precision, batchnorm) if precision else plain_step(name, x, y)
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = []
    for _ in range(N_STEPS + 1):
        started = clock()
        step()
        seconds.append(clock() - started)
    return seconds[1:]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(step_seconds(options.model, options.contender, options.threads)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    this = [sys.executable, "-m", "tests.bench.step", "--model", options.model]
    for _ in range(N_ROUNDS):
        for name in CONTENDERS:
            command = [*this, "--threads", str(options.threads), "--contender", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seconds[name] += json.loads(done.stdout.splitlines()[-1])
    base = statistics.median(seconds["plain loop"])
    kind = "CPU seconds" if options.threads == 1 else "seconds"
    where = f"torch {torch.__version__}, {options.threads} threads"
    print(f"{options.model}, a step of {BATCH_SIZE} images, {where}\n")
    print(f"| | {kind} per step | images/s | times as fast |\n|---|---|---|---|")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {BATCH_SIZE / median:.1f} | {base / median:.2f} |")


if __name__ == "__main__":
    main()
