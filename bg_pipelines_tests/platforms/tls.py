"""Real TLS servers on loopback: certificates that are good or bad, and connections that are cut at a given moment.

with TlsServer(certificates.good, cut="amid the handshake", how="reset") as server: server.url
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Cut = Literal[
    "before the handshake",
    "amid the handshake",
    "after the handshake",
    "amid the headers",
    "amid the body",
    "amid a chunked body",
]
How = Literal["closed", "reset", "ended"]
CUTS: tuple[tuple[Cut, How], ...] = (
    ("before the handshake", "closed"),
    ("before the handshake", "reset"),
    ("amid the handshake", "closed"),
    ("amid the handshake", "reset"),
    ("after the handshake", "closed"),
    ("after the handshake", "reset"),
    ("after the handshake", "ended"),
    ("amid the headers", "closed"),
    ("amid the headers", "reset"),
    ("amid the headers", "ended"),
    ("amid the body", "closed"),
    ("amid the body", "reset"),
    ("amid the body", "ended"),
    ("amid a chunked body", "closed"),
    ("amid a chunked body", "reset"),
    ("amid a chunked body", "ended"),
)
"""`ended` is with TLS's own goodbye, `closed` without one, `reset` does away with the connection itself."""


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority to trust, and servers' certificates (each with its key)."""

    authority: Path
    good: Path
    expired: Path
    of_another_host: Path
    of_nobody: Path
    """Signed by itself."""


def make_certificates(folder: Path) -> Certificates:
    authority = Authority()
    (folder / "authority.pem").write_bytes(authority.pem)
    made = {
        "good": authority.sign("127.0.0.1"),
        "expired": authority.sign("127.0.0.1", days=-1),
        "of_another_host": authority.sign("192.0.2.1"),
        "of_nobody": Authority().sign("127.0.0.1"),
    }
    for name, pem in made.items():
        (folder / f"{name}.pem").write_bytes(pem)
    return Certificates(folder / "authority.pem", *(folder / f"{name}.pem" for name in made))


class Authority:
    """Signs certificates of servers, as PEM with their keys."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        builder = self._builder(self._name, self._key, 2)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=3))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, *addresses: str, days: int = 2) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, addresses[0])])
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        alternative = x509.SubjectAlternativeName(names)
        builder = self._builder(name, key, days).add_extension(alternative, critical=False)
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(encoding)
        return certificate + key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)


class TlsServer:
    """Answers each request with `body` (or with all of `answer`), or cuts the connection at a moment. `asked` holds what it was sent."""

    def __init__(
        self,
        certificate: Path,
        *,
        cut: Cut | None = None,
        how: How = "closed",
        body: bytes = b"{}",
        answer: bytes | None = None,
    ) -> None:
        self.cut, self.how = cut, how
        self.answer = answer or b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        self.asked: list[bytes] = []
        self.handshakes = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"https://{self.address}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self.cut == "before the handshake":
                self._end(connection)
                return
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self._context.wrap_bio(incoming, outgoing, server_side=True)

            def pump(step: Any, *given: Any) -> Any:
                while True:
                    try:
                        done = step(*given)
                        connection.sendall(outgoing.read())
                        return done
                    except ssl.SSLWantReadError:
                        flight = outgoing.read()
                        if self.cut == "amid the handshake" and flight:
                            connection.sendall(flight[: len(flight) // 2])
                            self._end(connection)
                            raise ConnectionAbortedError from None
                        connection.sendall(flight)
                        received = connection.recv(65_536)
                        if not received:
                            raise ConnectionAbortedError from None
                        incoming.write(received)

            pump(tls.do_handshake)
            self.handshakes += 1
            while True:
                request = b""
                while b"\r\n\r\n" not in request:
                    if self.cut == "after the handshake":
                        self._end(connection, tls, outgoing)
                        return
                    request += pump(tls.read, 65_536)
                head, _, rest = request.partition(b"\r\n\r\n")
                length = next(
                    (
                        int(line[15:])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                while len(rest) < length:
                    rest += pump(tls.read, 65_536)
                self.asked.append(head)
                start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                if self.cut == "amid the headers":
                    pump(tls.write, start)
                elif self.cut == "amid the body":
                    pump(tls.write, start + b'Content-Length: 400\r\n\r\n{"data": ')
                elif self.cut == "amid a chunked body":
                    pump(tls.write, start + b'Transfer-Encoding: chunked\r\n\r\n9\r\n{"data": \r\n')
                else:
                    pump(tls.write, self.answer)
                    continue
                self._end(connection, tls, outgoing)
                return

    def _end(self, connection: socket.socket, tls: ssl.SSLObject | None = None, outgoing: Any = None) -> None:
        if self.how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif self.how == "ended" and tls is not None:
            with contextlib.suppress(ssl.SSLError):
                tls.unwrap()
            connection.sendall(outgoing.read())
