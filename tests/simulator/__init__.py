"""The simulator is a script, and scripts are no package: they find each other by their folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
