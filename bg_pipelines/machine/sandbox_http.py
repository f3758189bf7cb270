"""Calls to the demo's sandbox, which is on this machine: without proxies, and without a login out of ~/.netrc."""

from __future__ import annotations

from functools import cache

import requests


@cache
def sandbox_http() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    return session
