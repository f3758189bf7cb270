"""What a careful engineer writes first: a Starlette handler that verifies each webhook and inserts it by itself.

    python -m benchmarks.harness.plain_receiver DATABASE_URL PORT        one worker; prints its port

The same server with the same event loop and parser, the same table and columns, a commit that is on disk before 200 is
said, and a pool of connections as large as is best for it. No size limit, no deadline, no lookup of the shop, one secret.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import orjson
import psycopg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.harness.webhook_sender import SECRET

CONNECTIONS = 12
INSERT = (
    "INSERT INTO webhook_events (store_id, source, topic, webhook_id, event_id, resource, object_id, source_updated_at, "
    "triggered_at) VALUES (1, 'shopify', %s, %s, %s, 'orders', %s, %s, %s) "
    "ON CONFLICT (store_id, topic, webhook_id) DO NOTHING"
)


def make_app(url: str) -> Starlette:
    # The last one returned is the first one taken: a few warm ones do what a few can.
    pool: asyncio.LifoQueue[psycopg.AsyncConnection[tuple[object, ...]]] = asyncio.LifoQueue()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for _number in range(CONNECTIONS):
            pool.put_nowait(await psycopg.AsyncConnection.connect(url, autocommit=True))
        yield

    async def receive(request: Request) -> Response:
        body = await request.body()
        headers = request.headers
        digest = base64.b64encode(hmac.digest(SECRET.encode(), body, "sha256")).decode()
        if not hmac.compare_digest(digest, headers.get("x-shopify-hmac-sha256", "")):
            return Response(status_code=401)
        payload = orjson.loads(body)
        row = (
            headers["x-shopify-topic"],
            headers["x-shopify-webhook-id"],
            headers["x-shopify-event-id"],
            payload["admin_graphql_api_id"],
            datetime.fromisoformat(payload["updated_at"]),
            datetime.fromisoformat(headers["x-shopify-triggered-at"]),
        )
        connection = await pool.get()
        try:
            await connection.execute(INSERT, row)
        finally:
            pool.put_nowait(connection)
        return Response()

    return Starlette(routes=[Route("/webhooks/shopify", receive, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    url, port = sys.argv[1], int(sys.argv[2])
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(1000)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(
        make_app(url),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)

    def end_with_standard_input() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end_with_standard_input, daemon=True).start()
    server.run([listening])


if __name__ == "__main__":
    main()
