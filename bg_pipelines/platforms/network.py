"""The way to the vendors as the environment has it: which proxy, and which certificates are trusted."""

from __future__ import annotations

import ipaddress
import os
import ssl
import urllib.request
from functools import cache
from urllib.parse import urlsplit

import certifi
from urllib3.util import Url

from bg_pipelines.errors import ErrorType, IntegrationError


def tls_context() -> ssl.SSLContext:
    """This process's: with the certificates that the usual variables name, or certifi's.

    Raises IntegrationError (configuration).
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if bundle := os.environ.get(name):
            return _tls_context(name, *((None, bundle) if os.path.isdir(bundle) else (bundle, None)))
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        return _tls_context("SSL_CERT_FILE or SSL_CERT_DIR", file, folder)
    return _tls_context("certifi", certifi.where(), None)


@cache
def _tls_context(name: str, file: str | None, folder: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file, capath=folder)
    except OSError as error:
        message = f"{name}: the certificates cannot be read ({type(error).__name__})"
        raise IntegrationError.of(ErrorType.CONFIGURATION, message, source="settings") from None


def is_in_clear(url: str) -> bool:
    """Whether what is sent to this address goes over a network unencrypted."""
    place = urlsplit(url)
    return place.scheme == "http" and not is_loopback(place.hostname)


def is_loopback(host: str | None) -> bool:
    """Whether a name or an address is this machine's own."""
    bare = (host or "").strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost" or bare.endswith(".localhost")


def proxy_for(place: Url) -> str | None:
    """The address of the proxy by which this place is reached; None for directly."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(place.scheme or "") or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(place.netloc or ""):
        return None
    host = (place.host or "").strip("[]")
    for network in proxies.get("no", "").replace(" ", "").split(","):
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False):
                return None
        except ValueError:
            continue  # one of the two is a name
    return proxy if "://" in proxy else f"http://{proxy}"
