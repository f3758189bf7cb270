"""`bg-pipelines status` and `metrics`: is anything wrong, what is it, and does it need attention?"""

from __future__ import annotations

import sys

from bg_pipelines.cli.printing import console, in_home, open_migrated, print_json, typist
from bg_pipelines.cli.status_page import WORST, status_page
from bg_pipelines.operations import status
from bg_pipelines.operations.daemon_figures import daemon_reader
from bg_pipelines.operations.trends import read_trends
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import visible


def show_status(*, watch: bool, as_json: bool, all_stores: bool) -> None:
    with open_migrated() as database, daemon_reader(load_settings()) as daemon:
        if as_json:
            print_json(status.read_status(database, all_stores=all_stores, daemon=daemon()).as_dict())
        elif watch:
            from bg_pipelines.cli.watching import Watching

            Watching(
                console,
                database,
                lambda: status.read_status(database, most_stores=WORST, daemon=daemon()),
                typist(),
            ).watch()
        else:
            # Not cropped: a file or a pipe gets the full text.
            state = status.read_status(database, most_stores=WORST, daemon=daemon())
            console.print(status_page(state, read_trends(database), console), crop=console.is_terminal)
            if state.verdict.endswith(status.NO_STORES) and (place := in_home()):
                console.print(f"looked{place}", soft_wrap=True)


def show_metrics(*, per_store: bool) -> None:
    with open_migrated() as database, daemon_reader(load_settings()) as daemon:
        from bg_pipelines.operations.prometheus import read_prometheus

        sys.stdout.write(visible(read_prometheus(database, daemon(), stores=per_store)))
