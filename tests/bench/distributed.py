"""What a second process gains on a feature pass: `python -m tests.bench.distributed [IMAGES]`.

Times, in turn and several times over, the default model's pass over the shared flowers (1,000
unless said) by one process and by two, started by torchrun, each bound to a core of its own with
one thread; nothing cached. The clock runs from when all are ready until each has everything.
Writes docs/measured/distributed.md.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 3
WARM_UP = 32


def feature_pass(images: int) -> None:
    """What each process does; the first prints the seconds and the features' digest."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})

    import torch
    from torch import nn

    from tests.bench.regret import SHARED
    from tlcli.backbones import build
    from tlcli.data.dataset import scan
    from tlcli.features.extract import FeatureExtractor, extract_features
    from tlcli.reporter import Reporter
    from tlcli.runtime.device import choose_device
    from tlcli.runtime.distributed import collectives as agree
    from tlcli.runtime.distributed import process_group as distributed

    torch.set_num_threads(1)
    with distributed.process_group(Reporter()) as reporter:
        samples = scan(SHARED / "data" / "flowers").train[:images]
        backbone = build.load_backbone("efficientnet_lite0")
        stages = nn.Sequential(*backbone.stages[:-1])
        forward = FeatureExtractor(stages, backbone.preprocessing, choose_device("cpu"))
        extract_features(
            samples[: WARM_UP * distributed.world_size()], forward, task="", reporter=reporter
        )
        agree.all_gather(None)
        started = time.perf_counter()
        codes, _, _ = extract_features(samples, forward, task="", reporter=reporter)
        agree.all_gather(None)
        seconds = time.perf_counter() - started
        digest = hashlib.sha256(codes.float().numpy().tobytes()).hexdigest()
        if distributed.is_rank0():
            print(json.dumps({"seconds": seconds, "digest": digest}), flush=True)


def measured(processes: int, images: int) -> tuple[float, str]:
    """Seconds of a pass, and what it came to."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    here = ["-m", "tests.bench.distributed", str(images), "--process"]
    done = subprocess.run(
        [sys.executable, *launch, *here],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout)
    return found["seconds"], found["digest"]


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    if "--process" in sys.argv:
        feature_pass(images)
        return
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two processes need two cores")
    rounds = [(measured(1, images), measured(2, images)) for _ in range(ROUNDS)]
    equal = len({digest for both in rounds for _, digest in both}) == 1
    one, two = ([both[i][0] for both in rounds] for i in (0, 1))
    ratio = statistics.median(a / b for a, b in zip(one, two, strict=True))
    import torch

    text = (
        "# What a second process gains\n\n"
        f"Made by `python -m tests.bench.distributed` on {os.cpu_count()} cores "
        f"({platform.machine()}, torch {torch.__version__}): {images} flowers through "
        "EfficientNet-lite0 up to its last features, one core and one thread per process, "
        f"medians of {ROUNDS} rounds.\n\n"
        "| what | seconds | target |\n|---|---|---|\n"
        f"| one process | {statistics.median(one):.1f} | |\n"
        f"| two processes | {statistics.median(two):.1f} | |\n"
        f"| one / two, median of the rounds' ratios | **{ratio:.2f}** | 1.7 |\n\n"
        f"The features are {'equal bit for bit' if equal else 'NOT equal'} in all runs.\n"
    )
    (ROOT / "docs" / "measured" / "distributed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
