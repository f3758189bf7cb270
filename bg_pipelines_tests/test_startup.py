"""What starts quickly loads little: each run is a process of its own, and nobody waits a second for a help text."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLIENTS = ["alembic", "apprise", "httpx", "numpy", "pandas", "phonenumbers", "requests", "square", "twilio"]
"""Of vendors, of migrations and of reports: loaded by whoever calls a vendor, migrates or reports."""


@pytest.mark.parametrize(
    ("start", "unused"),
    [
        ("import bg_pipelines.definitions", [*CLIENTS, "prometheus_client", "typer"]),
        (
            "import sys; sys.argv = ['bg-pipelines', '--help']; from bg_pipelines.cli.app import main; main()",
            [*CLIENTS, "cryptography", "dagster", "prometheus_client", "psycopg", "pydantic", "sqlalchemy"],
        ),
    ],
    ids=["definitions", "help"],
)
def test_a_start_loads_nothing_that_it_does_not_use(start: str, unused: list[str]) -> None:
    program = (
        f"import atexit, sys; unused = {unused!r}\n"
        "atexit.register(lambda: print('LOADED', [name for name in unused if name in sys.modules]))\n" + start
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
