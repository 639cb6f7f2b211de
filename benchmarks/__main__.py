"""Run all benchmarks one after the other, each in a process of its own: ``python -m benchmarks``, or ``--json``."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common import print_table

NAMES = (
    "latency",
    "device_cpu",
    "startup",
    "sessions",
    "memory",
    "link",
    "transport",
    "join",
    "task_layer",
    "codec",
    "split_engine",
    "remote",
    "prediction",
)


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, by benchmark")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    results: dict[str, Any] = {}
    console = Console(stderr=True)
    for name in chosen.names or NAMES:
        console.print(f"{name} ...", style="dim")
        script = Path(__file__).with_name(f"{name}.py")
        done = subprocess.run([sys.executable, script, "--json"], stdout=subprocess.PIPE, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        results[name] = json.loads(done.stdout)
    if chosen.json:
        print(json.dumps(results))
    else:
        print_table(
            {name: (importlib.import_module(f"benchmarks.{name}").FIGURES, result) for name, result in results.items()}
        )


if __name__ == "__main__":
    main()
