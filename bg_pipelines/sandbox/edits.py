"""Edits of what the sandbox holds: one by its name, or random ones that are repeatable."""

from __future__ import annotations

from typing import Any

from bg_pipelines.sandbox.fields import apply_edit
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.shopify import edits as shop_edits
from bg_pipelines.sandbox.shopify import random_edits as random_shop_edits
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sandbox.square import edits as merchant_edits
from bg_pipelines.sandbox.square import random_edits as random_merchant_edits
from bg_pipelines.sandbox.square.merchant import Merchant
from bg_pipelines.sandbox.twilio import edits as account_edits
from bg_pipelines.sandbox.twilio.account import TwilioAccount


def edit(place: Shop | Merchant | TwilioAccount, name: str, /, **fields: Any) -> Node:
    """Do one edit: `edit(shop, "set_search_lag", seconds=30)`. docs/sandbox.md lists them."""
    with place.lock:
        if isinstance(place, TwilioAccount):
            return apply_edit(account_edits.EDITS, place, name, fields)
        try:
            if isinstance(place, Shop):
                return apply_edit(shop_edits.EDITS, place, name, fields)
            return apply_edit(merchant_edits.EDITS, place, name, fields)
        finally:
            place.notifier.flush()


def change(place: Shop | Merchant, count: int) -> list[dict[str, str]]:
    """Make so many random edits; the same seed and history make the same ones. The answer names what was touched."""
    with place.lock:
        if isinstance(place, Shop):
            return random_shop_edits.change_at_random(place, count)
        return random_merchant_edits.change_at_random(place, count)
