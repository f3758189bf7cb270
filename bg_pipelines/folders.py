"""Folders that only their owner may enter: the home, with its key, its database and exports of customers' data."""

from __future__ import annotations

from pathlib import Path


def private_folder(path: Path) -> Path:
    """Make the folder unless it is there, mode 0700 whatever the umask. One that is there stays as somebody made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
        path.chmod(0o700)  # of what mkdir is told, the umask takes away
    except FileExistsError:
        path.mkdir(exist_ok=True)  # raises where it is no folder
    return path
