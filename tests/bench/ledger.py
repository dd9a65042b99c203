"""What the whole-command benchmarks share: commands that are timed, outcomes that are kept."""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch
import torchvision

from tlcli.metrics.intervals import wilson_interval

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
MOBILENET = SHARED / "weights" / "mobilenet_v2-tf-imagenet.pth"
FASTAI_PYTHON = Path(tempfile.gettempdir(), "fastai-venv", "bin", "python")

Record = dict[str, Any]
Item = TypeVar("Item")


class Failed(Exception):
    """A command failed; the text is the end of what it said."""


@dataclass(frozen=True)
class Done:
    """What a command printed, and what it took: seconds, and the processor's seconds.

    The latter are those of the command and all the processes that it waited for.
    """

    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float

    def took(self) -> Record:
        return {
            "wall_s": round(self.wall_s, 2),
            "cpu_s": round(self.cpu_s, 2),
        }


def run(
    command: Sequence[object],
    *,
    threads: int | None = None,
    cores: set[int] | None = None,
    **environment: object,
) -> Done:
    """Run a program of its own, with this tlcli.

    Args:
        threads: that torch computes on; None: as many as it takes by itself.
        cores: the only ones that it may use.
        environment: more variables.

    Raises:
        Failed: it could not be started, or its exit code is not 0.
    """
    given = {**os.environ, "PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in environment.items()}
    given.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        given["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        try:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=tempfile.gettempdir(),
                env=given,
                stdout=out,
                stderr=err,
                preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
            )
        except OSError as error:
            raise Failed(str(error)) from None
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.terminate()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        done = Done(out.read(), err.read(), seconds, usage.ru_utime + usage.ru_stime)
    if process.returncode:
        said = " / ".join(done.stderr.strip().splitlines()[-2:])
        raise Failed(f"exit code {process.returncode}: {said[-400:]}")
    return done


def tlcli(*arguments: object, module: Sequence[object] = (), **how: Any) -> Done:
    """Run a command of tlcli; `module` starts it, where that is not this Python alone."""
    return run([*(module or (sys.executable,)), "-m", "tlcli", *arguments], **how)


def read(path: Path) -> list[Record]:
    """The outcomes so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, record: Mapping[str, Any]) -> None:
    """Append an outcome, and print it."""
    line = json.dumps(record)
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def work(
    items: Sequence[Item], attempt: Callable[[Item], Record], options: argparse.Namespace
) -> None:
    """Attempt one after the other and keep each outcome, while there is time."""
    started = time.perf_counter()
    for item in items:
        if time.perf_counter() - started < 60 * options.minutes:
            keep(options.results, attempt(item))


def circumstances() -> Record:
    """When and where something is measured; `load` is that of the minute before."""
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 1),
        "machine": machine(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def machine() -> str:
    """The processor, its number of cores and the memory, in words."""
    named = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        named[key.strip()] = value.strip()
    has = "with" if "avx512_bf16" in named.get("flags", "") else "without"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({named.get('model name', 'unknown')}, {has} AVX-512 bf16), "
        f"{memory:.0f} GiB of memory"
    )


def where(records: Sequence[Record]) -> str:
    """The circumstances of all of `records` in a sentence or two."""
    machines = sorted({f"{r['machine']}, torch {r['torch']}" for r in records})
    days = sorted({r["at"][:10] for r in records})
    loads = sorted(r["load"] for r in records)
    return (
        f"Measured on {'; '.join(machines)}, on {' and '.join(days)}. The machine's load in the "
        f"minute before each measurement was {loads[len(loads) // 2]} (median), {loads[-1]} at "
        "most; it includes the rest of the previous measurement."
    )


def accuracy(right: int, n: int) -> str:
    """As "91.0% of 400 (87.8 to 93.4)", by Wilson's 95% interval."""
    low, high = wilson_interval(right, n)
    return f"{right / n:.1%} of {n} ({100 * low:.1f} to {100 * high:.1f})"


def arguments(doc: str, results: Path) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="what has this in its name")
    parser.add_argument("--again", action="store_true", help="measure what is known anew")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--list", action="store_true", help="only say what is left to do")
    parser.add_argument("--minutes", type=float, default=inf, help="begin nothing after so many")
    parser.add_argument("--results", type=Path, default=results, help="where outcomes are kept")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measured" / "benchmarks.md")
    parser.add_argument(
        "--fastai-python",
        type=Path,
        default=FASTAI_PYTHON,
        help="Python of an environment with torch, torchvision and fastai: "
        "`python -m venv DIR && DIR/bin/pip install torch==SAME torchvision fastai`",
    )
    return parser
