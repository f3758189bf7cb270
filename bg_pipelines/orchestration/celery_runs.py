"""Runs in warm Celery workers (`BG_BROKER_URL`): how they are sent, and the app that a worker is.

A worker has the code loaded, so a run starts in a tenth of the time and of the processor time of a process of its own. Our
queues are its queues: `stores_sync` is taken before `default`. A run is acknowledged as it begins, and is never delivered
again: that it died is found by its heartbeat, and Dagster starts the run that follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery import Celery
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.make_app import make_app
from dagster_celery.tags import (
    DAGSTER_CELERY_QUEUE_TAG,
    DAGSTER_CELERY_RUN_PRIORITY_TAG,
    DAGSTER_CELERY_TASK_ID_TAG,
)
from kombu.entity import Exchange, Queue

from bg_pipelines.orchestration.run_health import Watched
from bg_pipelines.queues import DEFAULT, QUEUES
from bg_pipelines.settings import load_settings

if TYPE_CHECKING:
    from dagster import DagsterRun
    from dagster._serdes import ConfigurableClassData

RESULT_SECONDS = 86_400
SEND_SECONDS = 15
"""How long a run waits for a broker that is away, as while it is started again, before it fails."""
TASKS_A_PROCESS = 200
"""After so many runs a process of a worker makes way for a new one, forked off in a moment: so memory cannot creep up."""


class WatchedCeleryRunLauncher(Watched, CeleryRunLauncher):
    """dagster-celery's launcher with the broker of the settings. A run's task has its id; its queue and its place in it are
    the run's, as the daemon's queue has them."""

    @classmethod
    def of_settings(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> WatchedCeleryRunLauncher:
        """Raises IntegrationError (configuration)."""
        launcher = cls.from_config_value(inst_data, {**config_value, "default_queue": DEFAULT.name})
        launcher.celery = make_celery()
        return launcher

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        # Said before: a run that is interrupted and was not told to stop takes it for an accident, and is retried.
        self._instance.report_run_canceling(run)
        self.celery.control.revoke(run_id, terminate=True)
        return True

    def _launch_celery_task_run(self, run: DagsterRun, task_signature: Any, routing_key: str) -> None:
        # Written before the task is sent, for the task may be over before its sender goes on.
        self._instance.add_run_tags(run.run_id, {DAGSTER_CELERY_TASK_ID_TAG: run.run_id})
        placed = run.with_tags({**run.tags, **_place(run)})
        super()._launch_celery_task_run(placed, task_signature.set(task_id=run.run_id), routing_key)


def _place(run: DagsterRun) -> dict[str, str]:
    """Which of Celery's queues a run goes to, and its place there: 0 goes first, before 3 and 6."""
    queue = next((queue for queue in QUEUES if queue.name == run.tags.get("queue")), DEFAULT)
    ahead = int(run.tags.get("dagster/priority", queue.priority)) - queue.priority
    return {
        DAGSTER_CELERY_QUEUE_TAG: queue.name,
        DAGSTER_CELERY_RUN_PRIORITY_TAG: str(min(9, max(0, 3 * (1 - ahead)))),
    }


def make_celery() -> Celery:
    """The Celery app at the broker of the settings, with our queues. Raises IntegrationError (configuration)."""
    broker = load_settings().broker_url
    assert broker is not None
    url = broker.get_secret_value()
    network = {
        "socket_connect_timeout": 5,
        "socket_timeout": 30,
        "socket_keepalive": True,
        "health_check_interval": 10,
    }
    if url.startswith("redis+socket"):
        network = {"health_check_interval": 10}
    app: Celery = make_app()
    app.conf.update(
        broker_url=url,
        result_backend=url,
        result_expires=RESULT_SECONDS,
        # In this order: what is for stores is taken first.
        task_queues=[
            Queue(queue.name, Exchange(queue.name, type="topic"), routing_key=f"{queue.name}.#")
            for queue in QUEUES
        ],
        task_default_queue=DEFAULT.name,
        task_routes=None,
        broker_transport_options={"queue_order_strategy": "priority", **network},
        redis_socket_timeout=network.get("socket_timeout"),
        redis_socket_connect_timeout=network.get("socket_connect_timeout"),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_publish_retry_policy={
            "max_retries": SEND_SECONDS,
            "interval_start": 0.2,
            "interval_step": 0.2,
            "interval_max": 1,
        },
        # A run goes to a process that is free, and is no second one's behind a long one.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_max_tasks_per_child=TASKS_A_PROCESS,
        # A run writes its own log.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    return app
