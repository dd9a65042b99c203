"""The timed commands and the kept outcomes of the benchmarks that run for hours."""

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

from tests.bench.common import MEASURED, make_parser
from tests.paths import ROOT
from tlcli.metrics.intervals import wilson_interval

FASTAI_PYTHON = Path(tempfile.gettempdir(), "fastai-venv", "bin", "python")

Record = dict[str, Any]
Item = TypeVar("Item")


class Failed(Exception):
    """A command that failed; the text is the end of its stderr."""


@dataclass(frozen=True)
class Done:
    """What a command printed and how long it took.

    Attributes:
        cpu_s: CPU seconds of the command and of all processes that it waited for.
    """

    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float

    def times(self) -> Record:
        """Return the seconds for an outcome."""
        return {"wall_s": round(self.wall_s, 2), "cpu_s": round(self.cpu_s, 2)}


def run(
    command: Sequence[object],
    *,
    threads: int | None = None,
    cores: set[int] | None = None,
    **environment: object,
) -> Done:
    """Run a program in a process of its own, with this tlcli.

    Args:
        threads: torch's threads; None leaves the number to torch.
        cores: the only cores that it may use.
        environment: further environment variables.

    Raises:
        Failed: it could not be started, or its exit code is not 0.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in environment.items()}
    env.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        env["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        try:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=tempfile.gettempdir(),
                env=env,
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
        last_lines = " / ".join(done.stderr.strip().splitlines()[-2:])
        raise Failed(f"exit code {process.returncode}: {last_lines[-400:]}")
    return done


def tlcli(*arguments: object, **how: Any) -> Done:
    """Run a command of tlcli; `how` goes to `run`."""
    return run([sys.executable, "-m", "tlcli", *arguments], **how)


def read(path: Path) -> list[Record]:
    """Read the outcomes that were kept."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, record: Mapping[str, Any]) -> None:
    """Append an outcome to the file and print it."""
    line = json.dumps(record)
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def work(
    items: Sequence[Item], attempt: Callable[[Item], Record], options: argparse.Namespace
) -> None:
    """Attempt the items one after the other, and keep each outcome, while there is time."""
    started = time.perf_counter()
    for item in items:
        if time.perf_counter() - started < 60 * options.minutes:
            keep(options.results, attempt(item))


def circumstances() -> Record:
    """Record when and where something is measured; `load` is that of the last minute."""
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 1),
        "machine": machine(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def machine() -> str:
    """Describe the processor, its cores and the memory."""
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
    """Describe the circumstances of all records in a sentence or two."""
    machines = sorted({f"{r['machine']}, torch {r['torch']}" for r in records})
    days = sorted({r["at"][:10] for r in records})
    loads = sorted(r["load"] for r in records)
    return (
        f"Measured on {'; '.join(machines)}, on {' and '.join(days)}. The machine's load in the "
        f"minute before each measurement was {loads[len(loads) // 2]} (median), {loads[-1]} at "
        "most; it includes the rest of the previous measurement."
    )


def accuracy(right: int, n: int) -> str:
    """Format an accuracy with its 95% Wilson interval: "91.0% of 400 (87.8 to 93.4)"."""
    low, high = wilson_interval(right, n)
    return f"{right / n:.1%} of {n} ({100 * low:.1f} to {100 * high:.1f})"


def ledger_parser(doc: str | None, results: Path) -> argparse.ArgumentParser:
    """Build a parser with the options that the whole-command benchmarks share."""
    parser = make_parser(doc, only="measure what has WORD in its name")
    parser.add_argument("--again", action="store_true", help="repeat what is already measured")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--list", action="store_true", help="only list what is left to measure")
    parser.add_argument("--minutes", type=float, default=inf, help="start nothing after this time")
    parser.add_argument("--results", type=Path, default=results, help="file of the outcomes")
    parser.add_argument("--page", type=Path, default=MEASURED / "benchmarks.md")
    parser.add_argument(
        "--fastai-python",
        type=Path,
        default=FASTAI_PYTHON,
        help="Python of an environment with torch, torchvision and fastai: "
        "`python -m venv DIR && DIR/bin/pip install torch==SAME torchvision fastai`",
    )
    return parser
