"""The receiver: an HTTP application that verifies deliveries, stores them and answers; it handles none.

    200  on disk, or known already        401  signature wrong or missing       413  larger than 1 MiB
    400  not understood, kept for a day   503  cannot be stored: to be sent again, after Retry-After seconds

Shopify waits five seconds and counts anything but a 2xx as failed, so every answer comes within four of the last byte.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bg_pipelines.database.engine import Database
from bg_pipelines.database.link import Link
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.database.secrets import cipher as make_cipher
from bg_pipelines.errors import IntegrationError, unexpected
from bg_pipelines.settings import Settings
from bg_pipelines.webhooks import deliveries, signatures
from bg_pipelines.webhooks.deliveries import Delivery, Heading, NotUnderstoodError
from bg_pipelines.webhooks.inbox import Inbox, UnavailableError
from bg_pipelines.webhooks.metrics import Metrics
from bg_pipelines.webhooks.senders import Sender, Senders

LARGEST_BODY_BYTES = 1024 * 1024
"""Ours ask for ids and times, or for carts: some kilobytes. A whole order or product has a few hundred."""
BODIES_BYTES = 24 * 1024 * 1024
"""Of all bodies that a worker holds at a time, whoever sends them: what it needs is bounded, not what comes."""
ANSWER_SECONDS = 4.0
DATABASE_SECONDS = 3.0
RETRY_AFTER_SECONDS = 5
FORM_FIELDS = 200
KEPT_AN_HOUR = 60
"""Bodies that are not understood and kept, of each worker."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EMPTY = Response()
EMPTY_TWIML = Response('<?xml version="1.0" encoding="UTF-8"?><Response></Response>', media_type="text/xml")
log = logging.getLogger(__name__)


class Secrets(NamedTuple):
    """What signs deliveries of every store; a store's own are with its `Sender`. `public_url`: where vendors reach us."""

    shopify: tuple[bytes, ...]
    square: tuple[bytes, ...]
    twilio: bytes | None
    public_url: str | None

    @classmethod
    def of(cls, settings: Settings) -> Secrets:
        token = settings.twilio_auth_token
        return cls(
            tuple(secret.get_secret_value().encode() for secret in settings.shopify_webhook_secret),
            tuple(key.get_secret_value().encode() for key in settings.square_webhook_key),
            token.get_secret_value().encode() if token else None,
            settings.public_url.rstrip("/") if settings.public_url else None,
        )

    def address(self, request: Request) -> str | None:
        """The address that a vendor called, as it knows it: a proxy in between may have another for us."""
        if self.public_url is None:
            return None
        query = request.scope["query_string"].decode("latin-1")
        return f"{self.public_url}{request.scope['path']}{f'?{query}' if query else ''}"


class _RefusedError(Exception):
    """An answer that ends it; the text is for whoever sent it."""

    def __init__(self, status: int, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.outcome = outcome


@dataclass(slots=True)
class _Taken:
    """A delivery on its way through: what is known of it so far."""

    source: str
    request: Request
    headers: dict[str, str]
    topic: str = ""
    webhook_id: str = ""
    store_id: int | None = None
    body: bytes = b""
    held_bytes: int = 0


Read = Callable[[_Taken], Awaitable[list[Delivery]]]


class Receiver:
    """`secrets` and `cipher` are this process's; `may_keep` says whether one more body that is not understood is kept."""

    def __init__(
        self,
        inbox: Inbox,
        senders: Senders,
        metrics: Metrics,
        secrets: Secrets,
        cipher: Cipher,
        may_keep: Callable[[], bool],
    ) -> None:
        self._inbox = inbox
        self._senders = senders
        self._metrics = metrics
        self._secrets = secrets
        self._cipher = cipher
        self._bodies_bytes = 0
        self._may_keep = may_keep

    async def take_shopify(self, request: Request) -> Response:
        return await self._take(_taken("shopify", request), self._read_shopify)

    async def take_square(self, request: Request) -> Response:
        return await self._take(_taken("square", request), self._read_square)

    async def take_twilio_status(self, request: Request) -> Response:
        return await self._take(_taken("twilio", request, "status"), self._read_twilio, EMPTY_TWIML)

    async def take_twilio_inbound(self, request: Request) -> Response:
        return await self._take(_taken("twilio", request, "inbound"), self._read_twilio, EMPTY_TWIML)

    async def show_health(self, _: Request) -> Response:
        """Whether a delivery could be stored, found out by the way that it would take."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._inbox.store([])
        except (UnavailableError, TimeoutError):
            reason = "the database does not take deliveries"
            return JSONResponse({"status": "unavailable", "reason": reason}, 503)
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, _: Request) -> Response:
        return Response(await self._metrics.text(), media_type=METRICS_TYPE)

    async def _take(self, taken: _Taken, read: Read, stored: Response = EMPTY) -> Response:
        try:
            await self._read_body(taken)
            async with asyncio.timeout(ANSWER_SECONDS):
                outcome, answer = await self._store(taken, read), stored
        except _RefusedError as refused:
            outcome, answer = refused.outcome, _refusal(refused.status, str(refused))
        except (UnavailableError, IntegrationError, TimeoutError):
            outcome, answer = "unavailable", _refusal(503, "it cannot be stored at the moment")
        except ClientDisconnect:
            outcome, answer = "cut_off", _refusal(400, "it ended before it was whole")
        except Exception as error:  # noqa: BLE001  the server's own report would quote what may be anybody's data
            log.error(unexpected(error).message)
            outcome, answer = "failed", _refusal(500, "")
        finally:
            self._bodies_bytes -= taken.held_bytes
        self._metrics.note_answer(taken.source, taken.topic, outcome)
        return answer

    async def _read_body(self, taken: _Taken) -> None:
        if int(taken.headers.get("content-length", "0")) > LARGEST_BODY_BYTES:
            raise _too_large()
        chunks = []
        async for chunk in taken.request.stream():
            chunks.append(chunk)
            taken.held_bytes += len(chunk)
            self._bodies_bytes += len(chunk)
            if taken.held_bytes > LARGEST_BODY_BYTES:
                raise _too_large()
            if self._bodies_bytes > BODIES_BYTES:
                raise UnavailableError("too many large bodies at once")
        taken.body = b"".join(chunks)

    async def _store(self, taken: _Taken, read: Read) -> str:
        """The outcome; returns once what is to be stored is."""
        try:
            rows = await read(taken)
            if not rows:
                return "nothing_to_store"
            taken.topic = rows[0].topic
            await self._inbox.store(rows)
        except NotUnderstoodError as error:
            if self._may_keep():
                await self._inbox.store([self._kept(taken, str(error))])
            raise _RefusedError(400, deliveries.NOT_UNDERSTOOD, str(error)) from None
        return "stored"

    def _kept(self, taken: _Taken, reason: str) -> Delivery:
        return deliveries.not_understood(
            reason, taken.source, taken.topic, taken.webhook_id, taken.body, taken.store_id, self._cipher
        )

    async def _read_shopify(self, taken: _Taken) -> list[Delivery]:
        heading = Heading.of(taken.headers)
        taken.topic, taken.webhook_id = heading.topic, heading.webhook_id
        sender = await self._senders.find("shopify", heading.domain)
        secrets = self._secrets.shopify + _secrets(sender)
        if not signatures.is_from_shopify(taken.body, heading.signature, secrets):
            raise _bad_signature()
        taken.store_id = sender.store_id if sender else None
        return deliveries.of_shopify(heading, taken.body, taken.store_id, self._cipher)

    async def _read_square(self, taken: _Taken) -> list[Delivery]:
        signature = taken.headers.get("x-square-hmacsha256-signature", "")
        # Which keys may have signed it only the body says.
        sender = await self._senders.find("square", deliveries.merchant_of_square(taken.body))
        keys = {*self._secrets.square, *_secrets(sender), *self._senders.application_keys()}
        address = self._secrets.address(taken.request)
        if not address or not signatures.is_from_square(address, taken.body, signature, keys):
            raise _bad_signature()
        taken.store_id = sender.store_id if sender else None
        return deliveries.of_square(taken.body, taken.store_id, self._cipher)

    async def _read_twilio(self, taken: _Taken) -> list[Delivery]:
        signature = taken.headers.get("x-twilio-signature", "")
        address, token = self._secrets.address(taken.request), self._secrets.twilio
        form = _form(taken.body)
        if not address or not token or not signatures.is_from_twilio(address, form, signature, token):
            raise _bad_signature()
        return deliveries.of_twilio(taken.topic, form, self._cipher)


def make_app(
    settings: Settings,
    database: Database,
    *,
    kept_an_hour: int = KEPT_AN_HOUR,
    clock: Callable[[], float] = time.monotonic,
    figures: Callable[[], str] | None = None,
) -> Starlette:
    """The receiver with these settings; of `database` it takes only the address, and has connections of its own.

    `figures` reads what else is told at /metrics.
    """
    cipher = make_cipher(settings)
    # Who is looked up must not wait for who is written.
    written, looked_up = (Link(database.parameters, seconds=DATABASE_SECONDS) for _ in range(2))
    metrics = Metrics(looked_up, figures)
    inbox = Inbox(written, on_insert=metrics.note_insert)
    senders = Senders(looked_up, cipher, clock=clock)
    may_keep = _Allowance(kept_an_hour, clock).take
    receiver = Receiver(inbox, senders, metrics, Secrets.of(settings), cipher, may_keep)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        inbox.start()
        yield
        await inbox.close()
        await looked_up.close()

    app = Starlette(
        routes=[
            Route("/webhooks/shopify", receiver.take_shopify, methods=["POST"]),
            Route("/webhooks/square", receiver.take_square, methods=["POST"]),
            Route("/webhooks/twilio/status", receiver.take_twilio_status, methods=["POST"]),
            Route("/webhooks/twilio/inbound", receiver.take_twilio_inbound, methods=["POST"]),
            Route("/healthz", receiver.show_health),
            Route("/metrics", receiver.show_metrics),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _Allowance:
    """So many an hour, and as many at once: what a flood cannot exceed."""

    def __init__(self, an_hour: int, clock: Callable[[], float]) -> None:
        self._an_hour = an_hour
        self._clock = clock
        self._left = float(an_hour)
        self._counted_at = clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._an_hour, self._left + (now - self._counted_at) * self._an_hour / 3600)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _taken(source: str, request: Request, topic: str = "") -> _Taken:
    # The headers as a dictionary: Starlette's own are searched from their beginning for each name.
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.scope["headers"]}
    return _Taken(source, request, headers, topic)


def _form(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        return {}


def _secrets(sender: Sender | None) -> tuple[bytes, ...]:
    return sender.secrets if sender else ()


def _bad_signature() -> _RefusedError:
    return _RefusedError(401, "bad_signature", "its signature is missing or wrong")


def _too_large() -> _RefusedError:
    return _RefusedError(413, "too_large", f"a body has at most {LARGEST_BODY_BYTES} bytes")


def _refusal(status: int, reason: str) -> Response:
    # What is left of a refused body is not read to its end.
    headers = {413: {"Connection": "close"}, 503: {"Retry-After": str(RETRY_AFTER_SECONDS)}}
    return PlainTextResponse(reason, status, headers.get(status))
