"""What the middleware costs, side by side with what it replaces: `python -m benchmarks`."""

import sys
from pathlib import Path

# Processes and servers are started by the same code as in the tests.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
