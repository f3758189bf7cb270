"""The sandbox: a separate program that speaks the vendors' APIs on loopback, to try and test the product over HTTP.

It imports nothing from the rest of the product, so its answers do not depend on what the product expects.
"""

from bg_pipelines.sandbox.edits import change, edit
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.sandbox.fields import RejectedError
from bg_pipelines.sandbox.scenario import SCENARIOS, Scenario
from bg_pipelines.sandbox.server import Sandbox, serve
from bg_pipelines.sandbox.shopify.shop import Request, Shop
from bg_pipelines.sandbox.square.merchant import Merchant, SquareRequest
from bg_pipelines.sandbox.world import World

__all__ = [
    "SCENARIOS",
    "Fault",
    "Merchant",
    "RejectedError",
    "Request",
    "Sandbox",
    "Scenario",
    "Shop",
    "SquareRequest",
    "World",
    "change",
    "edit",
    "serve",
]
