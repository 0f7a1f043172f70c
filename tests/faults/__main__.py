"""Runs the fault program with `tests` on the path, as pytest has it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from faults.cli import main

    sys.exit(main())
