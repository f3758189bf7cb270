"""How Dagster starts runs: any of its launchers, which with `run_health` notices that a run has died.

    run_launcher:                                   in dagster.yaml
      module: bg_pipelines.orchestration.launcher
      class: WatchedRunLauncher                     processes of this machine; with BG_BROKER_URL, Celery workers
             WatchedDockerRunLauncher               a container a run, `dagster-docker`
             WatchedK8sRunLauncher                  a Kubernetes job a run, `dagster-k8s`
             WatchedEcsRunLauncher                  an ECS task a run, `dagster-aws`

A launcher's package is imported when it is asked for. Whatever launcher, run monitoring marks a silent run as failed, and
run retries start it again: Dagster's default launcher knows only of processes of its own code server, and the Celery
launcher takes a task for running that its worker began, for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dagster._core.launcher.base import RunLauncher
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.orchestration.run_health import Watched
from bg_pipelines.settings import load_settings

if TYPE_CHECKING:
    from dagster._serdes import ConfigurableClassData

ELSEWHERE = {
    "WatchedDockerRunLauncher": ("dagster_docker", "DockerRunLauncher"),
    "WatchedK8sRunLauncher": ("dagster_k8s", "K8sRunLauncher"),
    "WatchedEcsRunLauncher": ("dagster_aws.ecs", "EcsRunLauncher"),
}
"""Launchers of other packages, each by the module and the name that it has there."""


class WatchedRunLauncher(Watched, DefaultRunLauncher):
    """Dagster's default launcher, watched; where a broker is set, it makes way for the launcher of Celery workers."""

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> RunLauncher:
        if load_settings().broker_url is None:
            return super().from_config_value(inst_data, config_value)
        try:
            from bg_pipelines.orchestration.celery_runs import WatchedCeleryRunLauncher
        except ModuleNotFoundError as error:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"BG_BROKER_URL is set, and the package {error.name} is missing: `pip install 'bg-pipelines[celery]'`, or "
                "unset it",
                source="settings",
            ) from None
        return WatchedCeleryRunLauncher.of_settings(inst_data, config_value)


def __getattr__(name: str) -> type[RunLauncher]:
    if name not in ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _elsewhere(name)


@cache
def _elsewhere(name: str) -> type[RunLauncher]:
    module, launcher = ELSEWHERE[name]
    return type(name, (Watched, getattr(import_module(module), launcher)), {"__module__": __name__})
