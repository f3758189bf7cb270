"""The command line: `python -m bg_pipelines.sandbox --port 4010`, or `bg-pipelines sandbox`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bg_pipelines.sandbox import SCENARIOS, RejectedError, serve

PROGRAM = "python -m bg_pipelines.sandbox"
DESCRIPTION = (
    "Speak the APIs of many Shopify shops, Square merchants and Twilio on loopback (docs/sandbox.md)."
)


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Serve until a signal ends it; returns the exit code. `program` is what the help calls it."""
    parser = argparse.ArgumentParser(prog=program, description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=4010, help="0 takes a free one (default: 4010)")
    parser.add_argument("--shops", type=int, help="how many shops (default: 12, or the scenario's)")
    parser.add_argument(
        "--variants",
        type=int,
        help="product variants in all shops together (default: 3000, or the scenario's)",
    )
    parser.add_argument(
        "--customers", type=int, help="customers in all shops together (default: a third of the variants)"
    )
    parser.add_argument(
        "--orders-per-customer", type=float, default=3.0, help="how many they are on average (default: 3)"
    )
    parser.add_argument("--merchants", type=int, default=0, help="how many Square merchants (default: 0)")
    parser.add_argument(
        "--square-variants",
        type=int,
        default=1000,
        help="variations of all merchants together (default: 1000)",
    )
    parser.add_argument(
        "--square-customers",
        type=int,
        default=1000,
        help="customers of all merchants together, with three orders each (default: 1000)",
    )
    parser.add_argument("--seed", type=int, default=7, help="the same seed makes the same shops (default: 7)")
    parser.add_argument(
        "--change-every", type=float, default=0.0, help="seconds between random edits; 0: none"
    )
    parser.add_argument(
        "--search-lag", type=float, default=0.0, help="seconds by which updated_at searches lag"
    )
    parser.add_argument(
        "--webhook-hour",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="how long an hour takes between the tries of a webhook's delivery (default: 1)",
    )
    parser.add_argument("--scenario", help=f"play scripted troubles: {', '.join(SCENARIOS)}")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="how many times as quickly as it is written it plays"
    )
    try:
        return serve(**vars(parser.parse_args(arguments)))
    except RejectedError as error:
        sys.stderr.write(f"sandbox: --{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
