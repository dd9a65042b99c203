"""A training step of the default backbone against the plain loop's: `python -m tests.bench.step`.

The plain loop is that of PyTorch's transfer learning tutorial with all layers trained: fp32, images
as NCHW, SGD with momentum. All contenders take turns in one process on one thread, on the same
random images; medians of CPU seconds, since other work on the machine does not count there.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from tlcli.backbones import build
from tlcli.events import Reporter
from tlcli.transfer.device import Compute
from tlcli.transfer.gradients import Gradients
from tlcli.transfer.modes import set_mode
from tlcli.transfer.network import Network, build_network
from tlcli.transfer.optimise import make_optimizer
from tlcli.transfer.schedule import Schedule

BATCH, ROUNDS = 32, 3
CPU = torch.device("cpu")
MIXED = torch.bfloat16


def network(name: str) -> Network:
    made = build_network(build.load(name), cut="none", dropped=False, n_classes=5)
    made.freeze()
    return made


def plain(name: str, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    model = network(name).whole
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
    name: str, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype | None, batchnorm: str
) -> Callable[[], object]:
    schedule = Schedule(lr=1e-5, batchnorm=batchnorm)
    made = network(name)
    suffix = made.suffix.to(memory_format=torch.channels_last)
    set_mode(suffix, batchnorm)
    gradients = Gradients(suffix, schedule, Compute(CPU, dtype))
    optimizer = make_optimizer(made, schedule)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step() -> float:
        total = gradients.add([(x, y)], 1, scaler, Reporter(), len(y))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(total[0].item())

    return step


def main() -> None:
    torch.set_num_threads(1)
    name = sys.argv[1] if len(sys.argv) > 1 else "efficientnet_lite0"
    torch.manual_seed(0)
    side = build.build(name).preprocessing.crop
    x, y = torch.randn(BATCH, 3, side, side), torch.randint(5, (BATCH,))
    contenders = {
        "plain loop": plain(name, x, y),
        "tlcli, fp32": ours(name, x, y, None, "adapt"),
        "tlcli, bf16": ours(name, x, y, MIXED, "adapt"),
        "tlcli, bf16, BatchNorm frozen": ours(name, x, y, MIXED, "frozen"),
    }
    seconds: dict[str, list[float]] = {key: [] for key in contenders}
    for turn in range(ROUNDS + 1):
        for key, step in contenders.items():
            started = time.process_time()
            step()
            if turn:  # the first is for warming up
                seconds[key].append(time.process_time() - started)
    base = statistics.median(seconds["plain loop"])
    print(f"{name}, a step of {BATCH} images, torch {torch.__version__}, one thread\n")
    print("| | CPU seconds a step | times as fast |\n|---|---|---|")
    for key, values in seconds.items():
        median = statistics.median(values)
        print(f"| {key} | {median:.2f} | {base / median:.2f} |")


if __name__ == "__main__":
    main()
