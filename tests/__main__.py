"""Run every check with one command: `python -m tests`.

Format, lint, types and the generated docs, as .pre-commit-config.yaml has them too, then the tests.
`--slow` adds the slow tier. Arguments after `--` go to pytest.
"""

import os
import subprocess
import sys
import time

from tests.paths import ROOT

# Each test process holds a network or two in memory: four at most, even on a large machine.
MAX_PROCESSES = 4

CHECKS = {
    "format": ["ruff", "format", "--check", "."],
    "lint": ["ruff", "check", "."],
    "types": ["mypy"],
    "docs": ["docs.make", "--check"],
}


def main() -> int:
    arguments = sys.argv[1:]
    extra = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    tier = ["-m", "slow or not slow"] if "--slow" in arguments else []
    processes = min(os.cpu_count() or 1, MAX_PROCESSES)
    pytest = ["pytest", f"-n{processes}", "--dist=loadfile", "--durations=15", *tier, *extra]
    failed = []
    for name, command in {**CHECKS, "tests": pytest}.items():
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False)
        verdict = "ok" if done.returncode == 0 else "FAILED"
        print(f"{name}: {verdict} in {time.perf_counter() - started:.0f} s", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
