"""Where the repository lies, and the real photographs and weights beside it."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
WEIGHTS = SHARED / "weights"
FLOWERS = DATA / "flowers"
