"""One list of checks: those that run before a commit are those of `python -m tests`."""

import re

from tests.__main__ import CHECKS
from tests.paths import ROOT


def test_pre_commit_runs_the_checks_of_python_m_tests():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    hooks = dict(re.findall(r"- id: (\S+)\n(?:.*\n)*?\s+entry: (.*)", text))
    assert hooks == {name: " ".join(["python", "-m", *command]) for name, command in CHECKS.items()}
