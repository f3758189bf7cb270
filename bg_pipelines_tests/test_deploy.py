"""What deploy/ says is what the program takes: files that cannot be started here are held to what they speak of.

`BG_TEST_FULL=1` builds the image's program in an empty folder by the Dockerfile's own commands, and runs the containers'
commands on it, in their order, as somebody who may write nowhere but where they may.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import typer.main
import yaml
from dagster._core.workspace.config_schema import ensure_workspace_config

from bg_pipelines.cli.app import app
from bg_pipelines.machine.processes import any_free_port, is_free
from bg_pipelines.orchestration.launcher import ELSEWHERE
from bg_pipelines.queues import MAX_CONCURRENT_RUNS
from bg_pipelines.settings import Settings
from bg_pipelines_tests.orchestration.daemons import Broker
from bg_pipelines_tests.orchestration.networks import postgres
from bg_pipelines_tests.support import KEY, PROJECT, wait_for

DEPLOY = PROJECT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VALUES: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())
PROGRAM: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "program.yaml").read_text()))
DAGSTER: dict[str, Any] = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "env_file" in service}
ENTRYPOINT = ["/app/bin/bg-pipelines"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, in order."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last(word: str) -> str:
    return [rest for found, rest in instructions() if found == word][-1]


def check_command(command: list[str]) -> None:
    """It is a command of ours, with options that it has."""
    name, *given = command
    commands: Any = typer.main.get_command(app)
    assert name in commands.commands, command
    commands.commands[name].make_context(name, ["x"], resilient_parsing=True)  # a topic is known once it is
    known = {option for parameter in commands.commands[name].params for option in parameter.opts}
    options = [word for word in given if word.startswith("--")]
    assert set(options) <= known, command


def commands_of_containers() -> list[list[str]]:
    of_compose = [service["command"] for service in OURS.values() if "entrypoint" not in service]
    of_kubernetes = [
        container["args"]
        for document in PROGRAM
        if "template" in document["spec"]
        for container in document["spec"]["template"]["spec"]["containers"]
    ]
    return [*of_compose, *of_kubernetes]


@pytest.mark.parametrize("command", commands_of_containers(), ids=" ".join)
def test_each_container_has_a_command_that_there_is(command: list[str]) -> None:
    check_command(command)


def test_every_container_of_ours_is_locked_and_only_the_proxy_has_ports() -> None:
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == ["proxy"]
    assert set(OURS) == {"migrate", "code", "ui", "daemon", "worker", "receiver", "board", "watch"}
    for name, service in COMPOSE["services"].items():
        if name != "postgres":
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
    pods = [document["spec"]["template"]["spec"] for document in PROGRAM if "template" in document["spec"]]
    contexts = [container["securityContext"] for pod in pods for container in pod["containers"]]
    contexts += [VALUES[part]["securityContext"] for part in ("dagsterWebserver", "dagsterDaemon")]
    contexts += [one["securityContext"] for one in VALUES["dagster-user-deployments"]["deployments"]]
    for context in contexts:
        assert context["runAsNonRoot"]
        assert context["readOnlyRootFilesystem"]
        assert context["runAsUser"] == int(last("USER")) > 0
    caddy = (DEPLOY / "Caddyfile").read_text()
    assert "basic_auth" in caddy
    assert (
        caddy.index("receiver:8088")
        < caddy.index("basic_auth")
        < caddy.index("ui:3000")
        < caddy.index("board:3001")
    )


def test_what_they_are_told_are_settings_that_there_are() -> None:
    known = {f"BG_{name}".upper() for name in Settings.model_fields} | {"BG_IMAGE"}
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert set(re.findall(r"\bBG_[A-Z_]+\b", path.read_text())) <= known, path
    asked = set(re.findall(r"\$\{([A-Z_]+):\?\}", (DEPLOY / "compose.yaml").read_text()))
    example = set(re.findall(r"^([A-Z_]+)=", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE))
    assert asked == example


def test_a_cluster_has_the_queue_and_the_monitoring_of_dagster_yaml() -> None:
    daemon = VALUES["dagsterDaemon"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    runs = DAGSTER["concurrency"]["runs"]
    assert queue["maxConcurrentRuns"] == runs["max_concurrent_runs"] == MAX_CONCURRENT_RUNS
    assert queue["tagConcurrencyLimits"] == runs["tag_concurrency_limits"]
    assert queue["dequeueIntervalSeconds"] == DAGSTER["run_queue"]["dequeue_interval_seconds"]
    monitoring, own = daemon["runMonitoring"], DAGSTER["run_monitoring"]
    assert monitoring["pollIntervalSeconds"] == own["poll_interval_seconds"]
    assert monitoring["startTimeoutSeconds"] == own["start_timeout_seconds"]
    assert monitoring["maxRuntimeSeconds"] == own["max_runtime_seconds"]
    assert daemon["runRetries"]["maxRetries"] == DAGSTER["run_retries"]["max_retries"]
    assert (
        daemon["runRetries"]["retryOnAssetOrOpFailure"]
        is DAGSTER["run_retries"]["retry_on_asset_or_op_failure"]
    )
    launcher = VALUES["runLauncher"]["config"]["customRunLauncher"]
    assert VALUES["runLauncher"]["type"] == "CustomRunLauncher"
    assert launcher["module"] == DAGSTER["run_launcher"]["module"]
    assert launcher["class"] in ELSEWHERE
    assert launcher["config"]["dead_after_seconds"] == DAGSTER["run_launcher"]["config"]["dead_after_seconds"]
    purged = {part: VALUES["retention"][part]["purgeAfterDays"] for part in ("schedule", "sensor")}
    assert purged == {part: DAGSTER["retention"][part]["purge_after_days"] for part in ("schedule", "sensor")}


def test_web_ui_and_daemon_of_containers_share_one_code_server() -> None:
    workspace = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())
    ensure_workspace_config(workspace, "workspace.yaml")
    [server] = workspace["load_from"]
    assert server["grpc_server"]["host"] in COMPOSE["services"]
    code = COMPOSE["services"]["code"]["entrypoint"]
    assert str(server["grpc_server"]["port"]) in code
    assert server["grpc_server"]["location_name"] == code[-1], "the same name as without containers"
    for name in ("ui", "daemon"):
        service = COMPOSE["services"][name]
        assert "/opt/dagster/workspace.yaml" in [*service.get("entrypoint", []), *service["command"]]


@pytest.mark.full
def test_compose_yaml_is_what_the_compose_specification_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    path = Path(os.environ.get("BG_VENDOR_SPECS", PROJECT.parent / "shared" / "vendor"), "compose-spec.json")
    if not path.exists():
        pytest.skip("compose-spec/compose-spec's schema/compose-spec.json is not in BG_VENDOR_SPECS")
    jsonschema.validate(COMPOSE, json.loads(path.read_text()))


@pytest.mark.full
def test_what_kubernetes_is_given_is_what_its_own_schemas_say() -> None:
    """Those of the package kubernetes-validate, 108 MB, which is not among ours."""
    kubernetes = pytest.importorskip("kubernetes_validate")
    for document in PROGRAM:
        kubernetes.validate(document, "1.34", strict=True)
    parts = [VALUES["dagsterWebserver"], VALUES["dagsterDaemon"]]
    for part in (*parts, *VALUES["dagster-user-deployments"]["deployments"]):
        image = f"{part['image']['repository']}:{part['image']['tag']}"
        container = {
            "name": "ours",
            "image": image,
            "imagePullPolicy": part["image"]["pullPolicy"],
            "envFrom": [{"secretRef": secret} for secret in part["envSecrets"]],
            "securityContext": part["securityContext"],
            "volumeMounts": part["volumeMounts"],
        }
        spec = {"containers": [container], "volumes": part["volumes"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ours"}, "spec": spec}
        kubernetes.validate(pod, "1.34", strict=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda unit: unit.stem)
def test_systemd_finds_no_fault_in_the_units(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    for line in re.findall(r"^Exec\w+=/opt/bg-pipelines/\.venv/bin/bg-pipelines (.*)$", text, re.MULTILINE):
        check_command(shlex.split(line))
    program = shutil.which("bg-pipelines")
    assert program is not None
    copy = tmp_path / unit.name
    # The program is somewhere else here, and its page of documentation is.
    copy.write_text(
        text.replace("/opt/bg-pipelines/.venv/bin/bg-pipelines", program).replace(
            "/opt/", f"{PROJECT.parent}/"
        )
    )
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True
    )
    ours = [line for line in told.stderr.splitlines() if unit.name in line]
    assert (told.returncode, ours) == (0, []), told.stderr


def test_the_image_has_two_stages_the_locked_versions_and_no_root() -> None:
    words = [word for word, _ in instructions()]
    assert words.count("FROM") == 2
    assert words[-3:] == ["USER", "ENTRYPOINT", "CMD"]
    assert json.loads(last("ENTRYPOINT")) == ENTRYPOINT
    [install] = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert "--constraint requirements.lock" in install
    ignored = (PROJECT / ".dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    for source in (source for sources in copied for source in sources):
        assert (PROJECT / source).exists()
        assert f"!{source}" in ignored, "the build is given it"


class Standin:
    """The image's file system in a folder: what the Dockerfile does at /, done there by its own commands."""

    PLACES = ("/src", "/app", "/opt/dagster", "/var/lib/bg-pipelines")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.user = ""
        self.environment: dict[str, str] = {}

    def at(self, text: str) -> str:
        return re.sub(rf"(?<![\w/.-])(?=({'|'.join(self.PLACES)})\b)", str(self.root), text)

    def build(self) -> None:
        arguments: dict[str, str] = {}
        place = self.root
        for word, rest in instructions():
            for name, value in arguments.items():
                rest = rest.replace(f"${{{name}}}", value)
            if word == "ARG":
                arguments.update([rest.split("=")])  # type: ignore[list-item]
            elif word == "WORKDIR":
                place = Path(self.at(rest))
                place.mkdir(parents=True, exist_ok=True)
            elif word == "COPY" and "--from" not in rest:
                *sources, target = rest.split()
                to = Path(place, self.at(target)) if target.startswith(".") else Path(self.at(target))
                for source in sources:
                    self._copy(PROJECT / source, to)
            elif word == "RUN":
                rest = re.sub(r"^useradd .*? && ", f"mkdir -p {self.root}/var/lib/bg-pipelines && ", rest)
                rest = rest.replace("chown bg ", "chown nobody ")
                # The system's: ours may be of a folder that only root may enter.
                rest = re.sub(r"^python ", "/usr/bin/python3 ", rest)
                subprocess.run(["/bin/sh", "-ec", self.at(rest)], cwd=place, check=True)
            elif word == "ENV":
                for pair in rest.split():
                    name, _, value = pair.partition("=")
                    self.environment[name] = os.path.expandvars(self.at(value))
            elif word == "USER":
                self.user = rest
        shutil.chown(self.root / "var/lib/bg-pipelines", "nobody")

    def _copy(self, source: Path, to: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, to)

    @contextmanager
    def started(self, name: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """A container of compose.yaml: its command, as nobody, on a file system that it may only read."""
        service = OURS[name]
        words = [*service.get("entrypoint", ENTRYPOINT), *service["command"]]
        words[0] = shutil.which(words[0], path=f"{self.root}/app/bin") or self.at(words[0])
        command = shlex.join([self.at(word).replace("0.0.0.0", "127.0.0.1") for word in words])
        home = f"{self.root}/var/lib/bg-pipelines"
        binds = f"mount --bind {self.root} {self.root}; mount --bind {home} {home}; mount -o remount,ro,bind {self.root}"
        script = f"{binds}; cd {self.root}/opt/dagster; exec setpriv --reuid nobody --regid nogroup --clear-groups {command}"
        with (self.root / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", "--mount", "/bin/sh", "-ec", script],
                env={**self.environment, **environment, "HOME": home},
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            family = (
                [process, *psutil.Process(process.pid).children(recursive=True)]
                if process.poll() is None
                else []
            )
            process.terminate()
            process.wait(60)
            for one in family[1:]:
                with suppress(psutil.Error):
                    one.kill()

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.timeout(900)
def test_what_the_dockerfile_builds_runs_the_commands_of_the_containers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path("/tmp/bg-image")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(mode=0o755)
    standin = Standin(root)
    standin.build()
    broker = Broker()
    broker.start()
    broker.socket.chmod(0o777)
    Path(broker.folder.name).chmod(0o755)
    stack = ExitStack()
    url = stack.enter_context(postgres("127.0.0.1", any_free_port()))
    with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
        for name in ("bg_pipelines", "bg_dagster"):
            connection.execute(f"CREATE DATABASE {name}")
    settings = {
        "BG_DATABASE_URL": f"{url}/bg_pipelines",
        "BG_DAGSTER_DATABASE_URL": f"{url}/bg_dagster",
        "BG_BROKER_URL": broker.url,
        "BG_ENCRYPTION_KEY": KEY,
        "BG_PUBLIC_URL": "https://jobs.example.com",
        "BG_BOARD_URL": "https://board.example.com",
        "BG_SQUARE_WEBHOOK_KEY": "key",
    }
    # Containers have names and ports of their own; here they are ports of one machine.
    code, ui = any_free_port(), any_free_port()
    workspace = root / "opt/dagster/workspace.yaml"
    workspace.write_text(
        workspace.read_text().replace("host: code", "host: 127.0.0.1").replace("4000", str(code))
    )
    for name, port, place in (("code", code, "4000"), ("ui", ui, "3000")):
        words = [str(port) if word == place else word for word in OURS[name]["entrypoint"]]
        monkeypatch.setitem(OURS[name], "entrypoint", words)
    receiver, board = any_free_port(), any_free_port()
    for name, port in (("receiver", receiver), ("board", board)):
        monkeypatch.setitem(OURS[name], "command", [*OURS[name]["command"], "--port", str(port)])
    began = time.monotonic()
    try:
        with standin.started("migrate", **settings) as migrate:
            assert migrate.wait(120) == 0, standin.log("migrate")
        with stack:
            processes = {"code": stack.enter_context(standin.started("code", **settings))}
            wait_for(lambda: not is_free(code))
            for name in ("ui", "daemon", "worker", "receiver", "board", "watch"):
                processes[name] = stack.enter_context(standin.started(name, **settings))
            wait_for(lambda: not any(map(is_free, (ui, receiver, board))))
            wait_for(lambda: " ready." in standin.log("worker"))
            # The daemon starts what is due, the worker carries it out: the job that cleans runs every quarter of an hour;
            # at once by a person's hand.
            launched = subprocess.run(
                [
                    f"{root}/app/bin/dagster",
                    "job",
                    "launch",
                    "-w",
                    str(workspace),
                    "-j",
                    "clean_active_carts",
                    "-l",
                    "bg_pipelines.definitions",
                ],
                env={**standin.environment, **settings},
                capture_output=True,
                text=True,
                cwd=root / "opt/dagster",
            )
            assert launched.returncode == 0, launched.stderr
            wait_for(lambda: "RUN_SUCCESS" in standin.log("worker"))
            print(f"a run succeeded {time.monotonic() - began:.0f} s after the first container")
            assert {name: process.poll() for name, process in processes.items()} == dict.fromkeys(processes)
    finally:
        stack.close()
        broker.kill()
        for name in OURS:
            if (root / f"{name}.log").exists():
                print(f"--- {name}", standin.log(name)[-1500:], sep="\n")
    shutil.rmtree(root)
