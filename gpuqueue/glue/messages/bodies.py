"""Reading bodies: which content is accepted (JSON, or a signed body), and who may decode it. An
application decides by its configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from celery import Celery
from kombu.exceptions import ContentDisallowed, SerializerNotInstalled
from kombu.serialization import loads, prepare_accept_content

from gpuqueue.errors import MalformedMessage, UntrustedMessage
from gpuqueue.glue.messages.signed import JSON, SIGNED, CertificateStore, json_within, untrusted

#: The fix for a body that dispatchers do not accept.
PROTOCOL = (
    "send it as JSON [args, kwargs, embed], Celery's task protocol 2 (task_serializer = 'json')"
)
#: In place of a body that must not be read: no arguments, no callbacks.
NOTHING: tuple[list[Any], dict[str, Any], dict[str, Any]] = ([], {}, {})


class Bodies(Protocol):
    """Reads bodies."""

    def read(self, stored: Mapping[str, Any]) -> Any:
        """Return the decoded body of a stored message: if well-formed, (args, kwargs, embed).

        Raises :class:`MalformedMessage` if it cannot be decoded, :class:`UntrustedMessage` if it
        must not be.
        """
        ...


class ApplicationBodies:
    """Bodies as an application reads them: JSON, or, if ``accept_content`` names ``auth``, signed
    bodies that its security setup verifies.

    No other content is decoded, even if the application accepts it.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def read(self, stored: Mapping[str, Any]) -> Any:
        """See :class:`Bodies`."""
        accepted, content_type = self._accepted(), stored["content_type"]
        if not isinstance(content_type, str) or content_type not in accepted:
            if accepted == {JSON}:
                raise MalformedMessage.body(
                    stored["body"], f"is {content_type}", "send JSON (task_serializer = 'json')"
                )
            raise _unsigned(
                stored, "sign it: the application accepts what its setup_security() verifies"
            )
        if content_type == JSON:
            return _decoded(_plain(stored, None))
        json_within(stored["body"])
        try:
            return loads(stored["body"], content_type, stored["content_encoding"], accept=accepted)
        except ContentDisallowed as exc:
            raise MalformedMessage.body(
                stored["body"], f"cannot be read: {exc}", "sign JSON"
            ) from exc
        except Exception as exc:  # Celery's SecurityError, or any error of its decoders
            raise untrusted(f"{stored['body'][:80]}...", exc) from exc

    def _accepted(self) -> set[str]:
        try:
            types: set[str] = prepare_accept_content(self._app.conf.accept_content or ["json"])
        except SerializerNotInstalled as exc:
            raise UntrustedMessage(
                f"accept_content of the application: {exc}; call app.setup_security() in it"
            ) from exc
        return types & {JSON, SIGNED} if SIGNED in types else {JSON}


class DispatcherBodies:
    """Bodies as a dispatcher reads them: JSON, and no signed body. With a certificate store, only
    bodies that one of its certificates verifies.
    """

    def __init__(self, store: CertificateStore | None = None) -> None:
        self._store = store

    def read(self, stored: Mapping[str, Any]) -> Any:
        """See :class:`Bodies`."""
        return _decoded(self.text(stored))

    def text(self, stored: Mapping[str, Any]) -> str | bytes:
        """Return the JSON of a body, undecoded.

        Raises as :meth:`read`, and :class:`ClosedBody` for a signed body without a store.
        """
        if not is_signed(stored):
            return _plain(stored, self._store)
        if self._store is None:
            raise ClosedBody("the body is signed, and GPUQUEUE_CERT_STORE is not set")
        return self._store.verified(stored["body"])


class ClosedBody(MalformedMessage):
    """A signed body, and no certificate store: the dispatcher passes it on unread."""


def is_signed(stored: Mapping[str, Any]) -> bool:
    """Return whether a message has a signed body."""
    return stored["content_type"] == SIGNED and not stored.get("base64")


def _decoded(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:  # RecursionError: nested too deeply for Python
        raise MalformedMessage.body(
            text, f"cannot be read: {exc}", "send it as JSON [args, kwargs, embed]"
        ) from exc


def _plain(stored: Mapping[str, Any], store: CertificateStore | None) -> str:
    if store is not None:
        raise _unsigned(stored, "sign it, or unset GPUQUEUE_CERT_STORE of the dispatchers")
    if stored["content_type"] != JSON or stored.get("base64"):
        raise MalformedMessage.field(
            "content_type", stored["content_type"], "is not application/json", PROTOCOL
        )
    body = stored["body"]
    if not isinstance(body, str):
        raise MalformedMessage.body(body, "is not text", PROTOCOL)
    return body


def _unsigned(stored: Mapping[str, Any], fix: str) -> UntrustedMessage:
    return UntrustedMessage.field("content_type", stored["content_type"], "is not signed", fix)
