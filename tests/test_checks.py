"""One list of checks: what runs before a commit, in continuous integration and by hand."""

import re

from tests.__main__ import CHECKS
from tests.paths import ROOT


def test_pre_commit_runs_the_checks_of_python_m_tests():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    hooks = dict(re.findall(r"- id: (\S+)\n(?:.*\n)*?\s+entry: (.*)", text))
    assert hooks == {name: " ".join(["python", "-m", *command]) for name, command in CHECKS.items()}


def test_continuous_integration_runs_the_readmes_command():
    found = re.search(r"<!-- test-command -->\n```sh\n(.*)\n```", (ROOT / "README.md").read_text())
    assert found[1] == "pip install -e '.[dev]' && python -m tests"
    assert "<!-- test-command -->" in (ROOT / ".ci" / "run").read_text()
