"""Signatures that vendors are known to make, or make by their own libraries, and those that nobody made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from square.utils.webhooks_helper import verify_signature
from twilio.request_validator import RequestValidator

from bg_pipelines.webhooks.signatures import is_from_shopify, is_from_square, is_from_twilio
from bg_pipelines_tests.support import PROJECT
from bg_pipelines_tests.webhooks.conftest import signed

SPECS = Path(os.environ.get("BG_VENDOR_SPECS", PROJECT.parent / "shared" / "vendor"))
BODY = '{"foo": "bär"}'.encode()
TWILIO = "https://mycompany.com/myapp.php?foo=1&bar=2"
FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
    "Caller": "+14158675309",
}


def shopify_vectors() -> list[dict[str, Any]]:
    path = SPECS / "shopify_hmac_vectors.json"
    if not path.exists():
        pytest.skip(f"known-good signatures are not at {path}; set BG_VENDOR_SPECS")
    vectors: list[dict[str, Any]] = json.loads(path.read_text())
    return vectors


def test_shopifys_known_signatures_are_good_and_only_with_their_own_secret_and_body() -> None:
    for vector in shopify_vectors():
        body, secret = vector["body"].encode(), vector["secret"].encode()
        assert is_from_shopify(body, vector["hmac"], [secret]), vector["src"]
        assert is_from_shopify(body, vector["hmac"], [b"another", secret]), vector["src"]
        assert not is_from_shopify(body + b" ", vector["hmac"], [secret])
        assert not is_from_shopify(body, vector["hmac"], [b"another"])
        assert not is_from_shopify(body, vector["hmac"], [])


@pytest.mark.parametrize(
    "signature", ["", " ", "=", "not base64", "ÿ", "\0", "A" * 44, signed(b"", "secret")]
)
def test_what_is_no_signature_is_a_wrong_one(signature: str) -> None:
    assert not is_from_shopify(BODY, signature, [b"secret"])
    assert not is_from_square("https://a/b", BODY, signature, [b"secret"])
    assert not is_from_twilio("https://a/b", {}, signature, b"secret")


@given(st.text(min_size=1), st.text(st.characters(codec="ascii"), min_size=1))
def test_squares_own_library_agrees(text: str, key: str) -> None:
    body, address = text.encode("utf-8", "replace"), "https://hooks.example.com/webhooks/square"
    signature = signed(address.encode() + body, key)
    assert is_from_square(address, body, signature, [b"another", key.encode()])
    assert verify_signature(
        request_body=body.decode(), signature_header=signature, signature_key=key, notification_url=address
    )
    assert not is_from_square(address + "/", body, signature, [key.encode()])


def test_twilios_documented_signature_is_good() -> None:
    form = {name: [value] for name, value in FORM.items()}
    assert is_from_twilio(TWILIO, form, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", b"12345")
    assert not is_from_twilio(TWILIO, {**form, "Digits": ["4321"]}, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", b"12345")
    assert not is_from_twilio(TWILIO, form, "RSOYDt4T1cUTdK1PDd93/VVr8B8=", b"54321")


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5), st.booleans())
def test_twilios_own_library_agrees_whether_it_names_the_port_or_not(
    form: dict[str, str], port: bool
) -> None:
    theirs = TWILIO.replace(".com/", ".com:443/") if port else TWILIO
    signature = RequestValidator("token").compute_signature(theirs, form)
    assert is_from_twilio(TWILIO, {name: [value] for name, value in form.items()}, signature, b"token")
