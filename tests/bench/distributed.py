"""Measure what a second process gains on a feature pass: `python -m tests.bench.distributed`.

Times the default model's pass over the shared flowers by one process and by two, in alternation,
with nothing cached. torchrun starts the processes, each bound to a core of its own with one thread.
The clock runs from when all are ready until each has all features. Writes
docs/measured/distributed.md.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

from tests.paths import FLOWERS, ROOT

N_ROUNDS = 3
WARM_UP_IMAGES = 32


def feature_pass(images: int) -> None:
    """Extract the features of `images`; rank 0 prints the seconds and the features' digest."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})

    # Imported once the process is bound to its core: torch counts the cores when it is imported.
    import torch

    from tests.bench.common import load_pretrained, make_extractor
    from tlcli.data.dataset import scan
    from tlcli.features.extract import extract_features
    from tlcli.reporter import Reporter
    from tlcli.runtime.device import choose_device
    from tlcli.runtime.distributed import collectives, process_group

    torch.set_num_threads(1)
    with process_group.process_group(Reporter()) as reporter:
        samples = scan(FLOWERS).train[:images]
        extractor = make_extractor(load_pretrained("efficientnet_lite0"), choose_device("cpu"))
        warm_up = samples[: WARM_UP_IMAGES * process_group.world_size()]
        extract_features(warm_up, extractor, task="", reporter=reporter)
        collectives.all_gather(None)
        started = time.perf_counter()
        features, _, _ = extract_features(samples, extractor, task="", reporter=reporter)
        collectives.all_gather(None)
        seconds = time.perf_counter() - started
        digest = hashlib.sha256(features.float().numpy().tobytes()).hexdigest()
        if process_group.is_rank0():
            print(json.dumps({"seconds": seconds, "digest": digest}), flush=True)


def measure(processes: int, images: int) -> tuple[float, str]:
    """Start the processes; return the seconds of their pass and the features' digest."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    worker = ["-m", "tests.bench.distributed", str(images), "--worker"]
    done = subprocess.run(
        [sys.executable, *launch, *worker],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found = json.loads(done.stdout)
    return found["seconds"], found["digest"]


def main() -> None:
    if "--worker" in sys.argv:
        feature_pass(int(sys.argv[1]))
        return
    from tests.bench.common import environment, make_parser, write_page

    parser = make_parser(__doc__)
    parser.add_argument("images", type=int, nargs="?", default=1000)
    images = parser.parse_args().images
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two processes need two cores")
    rounds = [(measure(1, images), measure(2, images)) for _ in range(N_ROUNDS)]
    equal = len({digest for both in rounds for _, digest in both}) == 1
    one, two = ([both[i][0] for both in rounds] for i in (0, 1))
    ratio = statistics.median(a / b for a, b in zip(one, two, strict=True))
    text = (
        "# What a second process gains\n\n"
        f"Made by `python -m tests.bench.distributed` on {environment()}: {images} flowers through "
        "EfficientNet-lite0 up to its last features, one core and one thread per process, medians "
        f"of {N_ROUNDS} rounds.\n\n"
        "| what | seconds | target |\n|---|---|---|\n"
        f"| one process | {statistics.median(one):.1f} | |\n"
        f"| two processes | {statistics.median(two):.1f} | |\n"
        f"| one / two, median of the rounds' ratios | **{ratio:.2f}** | 1.7 |\n\n"
        f"The features are {'equal bit for bit' if equal else 'NOT equal'} in all runs.\n"
    )
    write_page("distributed.md", text)
    print(text)


if __name__ == "__main__":
    main()
