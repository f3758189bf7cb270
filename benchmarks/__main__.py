"""Runs benchmarks: `python -m benchmarks` all of them small, `python -m benchmarks load` one at its full size."""

from __future__ import annotations

import argparse
import difflib
import importlib
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
from rich.console import Console

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))
"""Every file beside this one is a benchmark: it has `run(console, small=...)`, which returns its figures."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", help=f"one of: {', '.join(NAMES)}; none: all of them, small")
    parser.add_argument("--small", action="store_true", help="a size that takes seconds")
    arguments, others = parser.parse_known_args()
    if arguments.name is not None and arguments.name not in NAMES:
        close = difflib.get_close_matches(arguments.name, NAMES, n=1, cutoff=0.4)
        meant = f"; did you mean {close[0]!r}" if close else ""
        parser.error(f"there is no benchmark {arguments.name!r}{meant}. There are: {', '.join(NAMES)}")
    options = _options(parser, arguments.name, others)
    # Ended by `kill` or by a closing terminal, what was started is stopped too, as on Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    # Wide enough for every table also where the output is not a terminal.
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        for name in [arguments.name] if arguments.name else NAMES:
            benchmark = importlib.import_module(f"benchmarks.{name}")
            figures = benchmark.run(console, small=arguments.small or arguments.name is None, **options)
            # Not through rich, which would break the line.
            print(orjson.dumps({"benchmark": name, **figures}).decode(), flush=True)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    return 0


def _options(parser: argparse.ArgumentParser, name: str | None, given: list[str]) -> dict[str, Any]:
    """What a benchmark that has `add_options` is told beside its size."""
    own = argparse.ArgumentParser(prog=f"{parser.prog} {name}")
    if name is not None and hasattr(
        benchmark := importlib.import_module(f"benchmarks.{name}"), "add_options"
    ):
        benchmark.add_options(own)
        return vars(own.parse_args(given))
    if given:
        parser.error(f"unrecognized arguments: {' '.join(given)}")
    return {}


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
