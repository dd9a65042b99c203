"""Everything that is checked, with one command: `python -m tests`.

Format, lint, types, the generated docs, then the tests. `--slow` adds the slow tier. What follows
`--` goes to pytest.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

# Each holds a network or two in memory, so not one for every core of a large machine.
PROCESSES = min(os.cpu_count() or 1, 4)
ROOT = Path(__file__).parent.parent


def main() -> int:
    arguments = sys.argv[1:]
    extra = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    slow = "--slow" in arguments
    tier = ["-m", "slow or not slow"] if slow else []
    steps = {
        "format": ["ruff", "format", "--check", "."],
        "lint": ["ruff", "check", "."],
        "types": ["mypy"],
        "docs": ["docs.make", "--check"],
        "tests": ["pytest", f"-n{PROCESSES}", "--dist=loadfile", "--durations=15", *tier, *extra],
    }
    failed = []
    for name, command in steps.items():
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False)
        verdict = "ok" if done.returncode == 0 else "FAILED"
        print(f"{name}: {verdict} in {time.perf_counter() - started:.0f} s", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        print("failed: " + ", ".join(failed))
    return 1 if failed else 0


sys.exit(main())
