"""The code server of one machine: Dagster's own, whose runs begin with everything loaded.

    python -m bg_pipelines.machine.code_server SOCKET [MODULE]

Dagster starts each run as a new Python that loads Dagster and the definitions, which takes three seconds of processor time
and is most of what a run of few stores costs. Here a server forks them from a process that has loaded both and does
nothing else (`multiprocessing`'s forkserver). Everything else, the end of a run included, is as Dagster has it.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.context import BaseContext
from pathlib import Path
from types import ModuleType
from typing import Any

DEFINITIONS = "bg_pipelines.definitions"


class _Forking(ModuleType):
    """`multiprocessing`, where a process that would be spawned is forked from the server."""

    def __getattr__(self, name: str) -> Any:
        return getattr(multiprocessing, name)

    def get_context(self, method: str | None = None) -> BaseContext:
        return multiprocessing.get_context("forkserver" if method == "spawn" else method)


def workspace(socket: Path, module: str = DEFINITIONS) -> str:
    """The text of a workspace.yaml by which web UI and daemon find the code server at this socket."""
    return f"load_from:\n  - grpc_server: {{socket: {socket}, location_name: {module}}}\n"


def serve(socket: str, module: str = DEFINITIONS) -> None:
    from dagster._cli import main
    from dagster._grpc import server

    multiprocessing.set_forkserver_preload(["dagster._grpc.impl", module])
    server.multiprocessing = _Forking("multiprocessing")  # type: ignore[attr-defined]
    # Its own words for what it starts, and what `dagster code-server start` gives it.
    named = ["--location-name", module, "--use-python-environment-entry-point"]
    sys.argv = ["dagster", "api", "grpc", "--socket", socket, "-m", module, *named]
    main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    serve(*sys.argv[1:])
