"""Processes of one machine: children that end with whoever started them, signals that end it, free ports."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError

STOP_SECONDS = 15
AGAIN_SECONDS = 0.1
STOPS = (signal.SIGINT, signal.SIGTERM)
# Loaded here: between fork and exec is no time for it.
_LIBC = ctypes.CDLL(None)


def stop_on_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP (but for nohup) raise KeyboardInterrupt, so that what is open is closed in order, and none of them is lost.

    Also where a shell started us in the background, which hands SIGINT down ignored.
    """
    for stop in STOPS:
        signal.signal(stop, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    sys.unraisablehook = _interrupt_again


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """An interrupt that met a destructor, or whatever else has nobody to raise to: it is sent again a moment later."""
    if issubclass(lost.exc_type, Exception):
        sys.__unraisablehook__(lost)
        return
    main = threading.main_thread().ident
    assert main is not None
    again = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGINT))
    again.daemon = True
    again.start()


@contextmanager
def child(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process in a session of its own, ended with all its children when the block is left."""
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent, **options)  # noqa: S603
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any], seconds: float = STOP_SECONDS) -> None:
    """End a process that leads a session, and all of it: in order, or outright after `seconds`."""
    deadline = time.monotonic() + seconds
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    # Its children may take longer: a run releases what it had claimed.
    while _lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tell_to_end(processes: Iterable[subprocess.Popen[Any]]) -> None:
    """All at once, so that who ends them in turn waits for the slowest of them, and not for each."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_with_parent() -> None:
    """In a child: be ended when its parent is killed outright. Linux only; elsewhere it stays, and its port with it."""
    with suppress(OSError, AttributeError):
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    if not is_free(port):
        raise configuration_error(f"port {port} is taken: end what uses it, or give another with --port")


def configuration_error(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.CONFIGURATION, message, source="machine")
