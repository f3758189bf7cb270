"""The demo's runs, in a process beside the demo: a line in asks for one, a line out says whether it succeeded.

Apart, because while a job runs Dagster takes signals for the job's alone, and its own helpers, which capture logs, are
in its process group: there they meet no Ctrl-C of a terminal. Whoever started this process ends it (processes.child).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from bg_pipelines.definitions import defs
from bg_pipelines.machine.code_server import DEFINITIONS

# Of the code location that the UI has: its timeline shows no run of any other.
_PLACE = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=DEFINITIONS), location_name=DEFINITIONS)
_REPOSITORY = RemoteRepositoryOrigin(_PLACE, SINGLETON_REPOSITORY_NAME)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    for output in (sys.stdout, sys.stderr):
        os.dup2(nothing, output.fileno())  # a run's log is in the UI
    with dg.DagsterInstance.get() as instance:
        for line in sys.stdin:
            success = _run(instance, **json.loads(line))
            print(json.dumps({"success": success}), file=answers, flush=True)


def _run(instance: dg.DagsterInstance, *, job: str, run_id: str, config: dict[str, Any]) -> bool:
    definition = defs.resolve_job_def(job)
    op = next(iter(definition.graph.node_dict))
    run = instance.create_run_for_job(
        definition,
        run_id=run_id,
        run_config={"ops": {op: {"config": config}}},
        tags={**definition.tags, "demo": "true"},
        remote_job_origin=RemoteJobOrigin(_REPOSITORY, job),
    )
    return execute_run(InMemoryJob(definition), run, instance, raise_on_error=False).success


if __name__ == "__main__":
    main()
