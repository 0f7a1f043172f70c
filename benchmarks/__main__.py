"""Command line: see `benchmarks/README.md`."""

from __future__ import annotations

import argparse
import sys
import time

from .lab import Lab, LoadError
from .process import ROOT, WORK
from .report import markdown
from .report.write import write
from .results import Results
from .scenarios import ALL
from .sizes import FULL, QUICK


def main() -> None:
    names = [scenario.name for scenario in ALL]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all of it works")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--repeats", type=int, help="default 5, with --quick 1")
    chosen = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("CPU, memory and connections are read from /proc: this runs on Linux only")
    sizes = QUICK if chosen.quick else FULL
    repeats = chosen.repeats or (1 if chosen.quick else 5)
    complete = not chosen.quick and not chosen.only
    results = Results()
    WORK.mkdir(exist_ok=True)
    for old in WORK.glob("*.log"):
        old.unlink()
    for scenario in ALL:
        if chosen.only and scenario.name not in chosen.only:
            continue
        began = time.monotonic()
        for turn in range(repeats):
            try:
                scenario.run(Lab(scenario.name, sizes, results, turn))
            except (LoadError, RuntimeError) as error:
                print(f"  {scenario.name} {turn + 1}: failed: {error}", file=sys.stderr, flush=True)
                results.note(scenario.name, f"repeat {turn + 1} failed: {str(error).strip()[-300:]}")
        results.save(WORK / "results.json")
        print("\n\n".join(markdown.scenario(scenario, results)))
        print(f"\n({time.monotonic() - began:.0f} s)\n", flush=True)
    print(markdown.targets(results))
    report = write(ROOT / "benchmarks" if complete else WORK, results, sizes, repeats)
    print(f"\nwritten: {report.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
