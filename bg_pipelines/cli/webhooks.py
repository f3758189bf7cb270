"""`bg-pipelines webhooks`: what platforms tell of changes."""

from __future__ import annotations

from typing import Annotated

import typer

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.settings import load_settings

app = typer.Typer()


@app.callback()
def webhooks() -> None:
    """What platforms tell of changes."""


@app.command("toml")
def print_toml(
    events: Annotated[
        bool, typer.Option("--events", help="Also Shopify's Events (API 2026-10, Shopify CLI 3.92).")
    ] = False,
) -> None:
    """Print the section of shopify.app.toml for what Shopify takes there only: compliance topics, Events.

    `shopify app deploy` then makes these subscriptions for every shop of the app. All other topics are subscribed to by
    the job create_shopify_webhook.
    """
    from bg_pipelines.webhooks.app_toml import app_toml

    settings = load_settings()
    if settings.public_url is None:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            "BG_PUBLIC_URL is not set: it is where Shopify delivers to, like https://hooks.example.com",
            source="settings",
        )
    typer.echo(app_toml(settings.public_url, settings.shopify_api_version, events=events), nl=False)
