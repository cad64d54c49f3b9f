"""Bodies signed by Celery's serializer ``auth``: their envelope, and their verification with a
certificate store.

The signature covers the bytes of the body only: no header, not even the name of the task. See
docs/operate/signed-messages.md. Verification needs the package ``cryptography``; opening an
envelope does not.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery.exceptions import SecurityError
from celery.utils.serialization import b64decode
from kombu.serialization import registry

from gpuqueue.errors import MalformedMessage, SettingsError, UntrustedMessage
from gpuqueue.model.tenant import NAME

logger = logging.getLogger(__name__)
#: The content type of a signed body.
SIGNED = "application/data"
JSON = "application/json"
#: What an organizational unit (OU) of a certificate begins with that names a tenant.
TENANT = "tenant:"
#: Celery's default. Dispatchers cannot verify an application with another ``security_digest``.
DIGEST = "sha256"
_SEPARATOR = b"\x00\x01"


@dataclass(frozen=True, slots=True)
class Envelope:
    """The parts of a signed body. The signature does not cover ``content_type``."""

    signer: str
    signature: bytes
    content_type: str
    body: bytes


def open_envelope(text: str | bytes) -> Envelope:
    """Parse a signed body without verification. Raises :class:`MalformedMessage`."""
    try:
        raw = b64decode(text.encode() if isinstance(text, str) else text)
        signer, signature, content_type, _, body = raw.split(_SEPARATOR, maxsplit=4)
        return Envelope(
            b64decode(signer).decode(), b64decode(signature), content_type.decode(), body
        )
    except (ValueError, TypeError) as exc:
        raise MalformedMessage.body(
            text, f"is not a signed body: {exc}", "sign it with Celery's serializer 'auth'"
        ) from None


def json_within(text: str | bytes) -> bytes:
    """Return the JSON in an envelope without verification. Raises :class:`MalformedMessage` for
    another content type.
    """
    envelope = open_envelope(text)
    if envelope.content_type != JSON:
        # The receiver decodes by the content type, which the signature does not cover: JSON must
        # not be decoded as something else.
        raise MalformedMessage.field(
            "body",
            envelope.content_type,
            "is signed, but is not JSON",
            "sign JSON, as Celery does by default",
        )
    return envelope.body


class CertificateStore:
    """The trusted certificates.

    Args:
        pattern: a directory, or a glob of PEM files with one certificate each
            (GPUQUEUE_CERT_STORE).

    Raises:
        SettingsError: no file matches, one is unreadable, or ``cryptography`` is not installed.
    """

    def __init__(self, pattern: str) -> None:
        try:
            from celery.security.certificate import Certificate, CertStore
            from celery.security.utils import get_digest_algorithm
        except ImportError as exc:
            raise SettingsError(
                "GPUQUEUE_CERT_STORE needs cryptography; pip install 'gpuqueue[auth]'"
            ) from exc
        self._digest = get_digest_algorithm(DIGEST)
        self._store = CertStore()
        self._tenants: dict[str, list[str]] = {}
        paths = sorted(glob.glob(f"{pattern}/*" if Path(pattern).is_dir() else pattern))  # noqa: PTH207 (absolute patterns)
        if not paths:
            raise SettingsError(
                f"GPUQUEUE_CERT_STORE={pattern!r} matches no file; name PEM files, e.g."
                " /etc/gpuqueue/certificates/*.pem"
            )
        for path in paths:
            try:
                certificate = Certificate(Path(path).read_text(encoding="utf-8"))
                self._store.add_cert(certificate)
            except Exception as exc:  # Celery's errors contain no more than these
                raise SettingsError(
                    f"GPUQUEUE_CERT_STORE: {path!r} is not a certificate with an RSA key: {exc};"
                    " remove it"
                ) from exc
            self._tenants[certificate.get_id()] = _tenants_of(certificate, path)
            if certificate.has_expired():
                logger.warning(
                    "%s has expired: messages that it signed are refused",
                    path,
                    extra={"action": "certificate_expired"},
                )

    def verified(self, text: str | bytes) -> bytes:
        """Return the JSON of a body that one of the certificates verifies.

        Raises :class:`UntrustedMessage` for a wrong signature, an unknown or an expired
        certificate, else :class:`MalformedMessage`.
        """
        return self.opened(text)[0]

    def opened(self, text: str | bytes) -> tuple[bytes, list[str]]:
        """Return the JSON of a body, and the tenants that its certificate names; see
        :meth:`verified`. An empty list: it names none.
        """
        envelope, body = open_envelope(text), json_within(text)
        try:
            certificate = self._store[envelope.signer]
            if certificate.has_expired():  # Celery 5.6 does not look when it verifies
                raise SecurityError(f"Expired certificate: {envelope.signer!r}")
            certificate.verify(body, envelope.signature, self._digest)
        # Celery's SecurityError, or an error in its handling of an error of cryptography
        except Exception as exc:
            raise untrusted(f"signed by {envelope.signer!r}", exc) from exc
        return body, self._tenants[envelope.signer]


def _tenants_of(certificate: Any, path: str) -> list[str]:
    """Return the tenants whose jobs a certificate may sign: its organizational units that begin
    with :data:`TENANT`. An empty list: of any. Raises :class:`SettingsError`.
    """
    from cryptography.x509 import NameOID

    units = certificate._cert.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    named = [str(each.value) for each in units if str(each.value).startswith(TENANT)]
    tenants = [each.removeprefix(TENANT) for each in named]
    for each in tenants:
        if not NAME.fullmatch(each):
            raise SettingsError(
                f"GPUQUEUE_CERT_STORE: OU={TENANT + each!r} of {path!r} names no tenant; use up to"
                " 63 letters, digits, '.', '_', '-'"
            )
    return tenants


def untrusted(what: str, exc: BaseException) -> UntrustedMessage:
    """Return the error for a body without a trusted signature."""
    problem, each = str(exc), exc
    while (inner := each.__cause__ or each.__context__) is not None:
        each = inner
        if type(each).__name__ == "InvalidSignature":
            problem = "the signature belongs to another body"
    return UntrustedMessage.field(
        "body", what, f"is not trusted: {problem}", "sign it with the key of a known certificate"
    )


def register(store: CertificateStore | None) -> None:
    """Let this dispatcher read signed remote control commands. A certificate store verifies them.

    A dispatcher has no key to sign a reply, and applications that sign accept no unsigned one: so
    it sends none.
    """

    def read(text: str | bytes) -> Any:
        command = json.loads(store.verified(text) if store else json_within(text))
        return (
            {key: value for key, value in command.items() if key != "reply_to"}
            if isinstance(command, Mapping)
            else command
        )

    def refuse(data: Any) -> Any:
        raise NotImplementedError("dispatchers have no key to sign with")

    registry.register("auth", refuse, read, content_type=SIGNED, content_encoding="utf-8")
