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

from bg_pipelines.definitions import defs


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
    return definition.execute_in_process(
        run_config={"ops": {op: {"config": config}}},
        instance=instance,
        run_id=run_id,
        tags={"demo": "true"},
        raise_on_error=False,
    ).success


if __name__ == "__main__":
    main()
