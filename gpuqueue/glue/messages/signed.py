"""Bodies signed by Celery's serializer ``auth``: their envelope, and, with a store of certificates,
whose they are.

The signature covers the bytes of the body and nothing else: no header, not even the task's name.
See docs/operate/signed-messages.md. Verifying needs the package ``cryptography``; opening an
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

logger = logging.getLogger(__name__)
#: The content type of what is signed.
SIGNED = "application/data"
JSON = "application/json"
#: Celery's own default; an application that chooses another ``security_digest`` is not verified
#: here.
DIGEST = "sha256"
_SEPARATOR = b"\x00\x01"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a signed body consists of. ``content_type`` is not covered by the signature."""

    signer: str
    signature: bytes
    content_type: str
    body: bytes


def open_envelope(text: str | bytes) -> Envelope:
    """Take a signed body apart, unverified. Raises :class:`MalformedMessage` for what is none."""
    try:
        raw = b64decode(text.encode() if isinstance(text, str) else text)
        signer, signature, content_type, _, body = raw.split(_SEPARATOR, maxsplit=4)
        return Envelope(
            b64decode(signer).decode(), b64decode(signature), content_type.decode(), body
        )
    except (ValueError, TypeError) as exc:
        raise MalformedMessage.body(
            text, f"is no signed body: {exc}", "send what Celery's serializer 'auth' makes"
        ) from None


def json_within(text: str | bytes) -> bytes:
    """Return the JSON that an envelope holds, unverified. Raises :class:`MalformedMessage` for
    another content.
    """
    envelope = open_envelope(text)
    if envelope.content_type != JSON:
        # Whoever verifies decodes by this word, which nobody has signed: JSON must not come to be
        # read as something else.
        raise MalformedMessage.field(
            "body",
            envelope.content_type,
            "is signed, and not JSON",
            "sign JSON, as Celery does by default",
        )
    return envelope.body


class CertificateStore:
    """The certificates whose signatures count.

    Args:
        pattern: a folder, or a glob of PEM files with a certificate each (GPUQUEUE_CERT_STORE).

    Raises:
        SettingsError: there are none, one cannot be read, or ``cryptography`` is not installed.
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
        paths = sorted(glob.glob(f"{pattern}/*" if Path(pattern).is_dir() else pattern))  # noqa: PTH207 (absolute patterns)
        if not paths:
            raise SettingsError(
                f"GPUQUEUE_CERT_STORE={pattern!r} matches no file; name PEM files, e.g."
                " /etc/gpuqueue/certificates/*.pem"
            )
        for path in paths:
            try:
                certificate = Certificate(Path(path).read_text())
                self._store.add_cert(certificate)
            except Exception as exc:  # Celery's own errors say no more than these
                raise SettingsError(
                    f"GPUQUEUE_CERT_STORE: {path!r} is no certificate with an RSA key: {exc}; take"
                    " it away"
                ) from exc
            if certificate.has_expired():
                logger.warning(
                    "%s has expired: what it signed is refused",
                    path,
                    extra={"action": "certificate_expired"},
                )

    def verified(self, text: str | bytes) -> bytes:
        """Return the JSON that is signed by one of the certificates.

        Raises :class:`UntrustedMessage` for another signature, an unknown or expired certificate;
        :class:`MalformedMessage`.
        """
        envelope, body = open_envelope(text), json_within(text)
        try:
            certificate = self._store[envelope.signer]
            if certificate.has_expired():  # Celery 5.6 does not look when it verifies
                raise SecurityError(f"Expired certificate: {envelope.signer!r}")
            certificate.verify(body, envelope.signature, self._digest)
        # Celery's SecurityError, and what its own handling of cryptography's errors makes of them
        except Exception as exc:
            raise untrusted(f"signed by {envelope.signer!r}", exc) from exc
        return body


def untrusted(what: str, exc: BaseException) -> UntrustedMessage:
    """Return the error for a body that is not signed as it should be."""
    said, each = str(exc), exc
    while (inner := each.__cause__ or each.__context__) is not None:
        each = inner
        if type(each).__name__ == "InvalidSignature":
            said = "the signature is not of this body"
    return UntrustedMessage.field(
        "body", what, f"is not trusted: {said}", "sign it with a key whose certificate is known"
    )


def register(store: CertificateStore | None) -> None:
    """Let this process, a dispatcher, read what comes signed by remote control; verified where
    there is a store.

    It has no key to sign an answer, and who signs takes no other: so what asks for an answer gets
    none.
    """

    def read(text: str | bytes) -> Any:
        said = json.loads(store.verified(text) if store else json_within(text))
        return (
            {key: value for key, value in said.items() if key != "reply_to"}
            if isinstance(said, Mapping)
            else said
        )

    def refuse(data: Any) -> Any:
        raise NotImplementedError("dispatchers have no key to sign with")

    registry.register("auth", refuse, read, content_type=SIGNED, content_encoding="utf-8")
