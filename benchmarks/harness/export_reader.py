"""A process that reads an export's file as the sync does, and tells what that took: `read(url)`.

python -m benchmarks.harness.export_reader URL
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from benchmarks.harness import sales_pages
from benchmarks.harness.machine import peak_rss_mb
from bg_pipelines.platforms.shopify.bulk import export_pages
from bg_pipelines.platforms.shopify.bulk_operation import Place
from bg_pipelines.platforms.shopify.client import ShopifyClient, StaticToken
from bg_pipelines.platforms.shopify.platform import EXPORTS
from bg_pipelines.records import Resource
from bg_pipelines.settings import SHOPIFY_API_VERSION

WRITTEN_TOGETHER = 250
"""Rows of which the lines come behind all of them, as Shopify writes what is not grouped."""


def write_orders(file: Path, orders: int) -> int:
    """The file of an export of so many orders; returns how many lines it has."""
    lines = 0
    with file.open("wb") as out:
        for first in range(0, orders, WRITTEN_TOGETHER):
            nested: list[bytes] = []
            for number in range(first, min(first + WRITTEN_TOGETHER, orders)):
                order = sales_pages.order(number, False)
                nodes = order.pop("lineItems")["nodes"]
                out.write(orjson.dumps(order) + b"\n")
                nested += [orjson.dumps({**node, "__parentId": order["id"]}) + b"\n" for node in nodes]
            out.write(b"".join(nested))
            lines += len(nested)
    return orders + lines


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, file: Path, orders: int, lines: int, *request: Any) -> None:
        self.file, self.orders, self.lines = file, orders, lines
        super().__init__(*request)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.file.stat().st_size))
        self.end_headers()
        with self.file.open("rb") as content:
            self.connection.sendfile(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        operation = {
            "id": "1",
            "status": "COMPLETED",
            "errorCode": None,
            "createdAt": sales_pages.NOW,
            "objectCount": str(self.lines),
            "rootObjectCount": str(self.orders),
            "url": f"http://{self.headers['Host']}/orders.jsonl",
        }
        count = {"count": self.orders, "precision": "EXACT"}
        scopes = {"accessScopes": [{"handle": scope} for scope in sales_pages.SCOPES]}
        body = orjson.dumps({"data": {"bulkOperation": operation, "count": count, "app": scopes}})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(file: Path, orders: int, lines: int) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, file, orders, lines))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def read(url: str) -> dict[str, Any]:
    """In a process of its own."""
    done = subprocess.run([sys.executable, "-m", __spec__.name, url], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = orjson.loads(done.stdout)
    return found


def main() -> None:
    imported = peak_rss_mb()
    began, spent = time.perf_counter(), time.process_time()
    export = EXPORTS[Resource.ORDERS]
    client = ShopifyClient(sys.argv[1], StaticToken("t"), api_version=SHOPIFY_API_VERSION)
    rows = parts = refunds = 0
    for page in export_pages(client, export, Place("benchmark", export.digest, True, "1").token()):
        rows, parts = rows + len(page.records), parts + page.parts_read
        refunds += len(page.parts["refunds"])
    figures = {"rows": rows, "parts": parts, "refunds": refunds, "seconds": time.perf_counter() - began}
    figures["processor_seconds"] = time.process_time() - spent
    print(orjson.dumps({**figures, "imported_rss_mb": imported, "peak_rss_mb": peak_rss_mb()}).decode())


if __name__ == "__main__":
    main()
