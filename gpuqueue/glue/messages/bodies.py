"""Who may read a body, and what is taken: JSON, or what is signed. An application decides by its
own configuration.
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

#: What to do about a body that is not what dispatchers take.
PROTOCOL = (
    "send it as JSON [args, kwargs, embed], Celery's task protocol 2 (task_serializer = 'json')"
)
#: A message without a body that anybody may read: no arguments, and nobody is called back.
NOTHING: tuple[list[Any], dict[str, Any], dict[str, Any]] = ([], {}, {})


class Bodies(Protocol):
    """Reads bodies."""

    def read(self, stored: Mapping[str, Any]) -> Any:
        """Return what a stored message's body says: by rights, (args, kwargs, embed).

        Raises :class:`MalformedMessage` when it cannot be read, :class:`UntrustedMessage` when it
        must not be.
        """
        ...


class ApplicationBodies:
    """An application's: JSON, unless ``accept_content`` names ``auth``; then what is signed,
    verified by its own set-up.

    Nothing else is ever decoded, whatever it accepts from others.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def read(self, stored: Mapping[str, Any]) -> Any:
        """See :class:`Bodies`."""
        accepted, said = self._accepted(), stored["content_type"]
        if said not in accepted:
            if accepted == {JSON}:
                raise MalformedMessage.body(
                    stored["body"], f"is {said}", "send JSON (task_serializer = 'json')"
                )
            raise _unsigned(
                stored, "sign it: the application accepts what its setup_security() verifies"
            )
        if said == JSON:
            return _decoded(_plain(stored, None))
        json_within(stored["body"])
        try:
            return loads(stored["body"], said, stored["content_encoding"], accept=accepted)
        except ContentDisallowed as exc:
            raise MalformedMessage.body(
                stored["body"], f"cannot be read: {exc}", "sign JSON"
            ) from exc
        except Exception as exc:  # Celery's SecurityError, or what its decoders raise
            raise untrusted(f"{stored['body'][:80]}...", exc) from exc

    def _accepted(self) -> set[str]:
        try:
            types: set[str] = prepare_accept_content(self._app.conf.accept_content or ["json"])
        except SerializerNotInstalled as exc:
            raise UntrustedMessage(
                f"accept_content of the application: {exc}; have it call app.setup_security()"
            ) from exc
        return types & {JSON, SIGNED} if SIGNED in types else {JSON}


class DispatcherBodies:
    """A dispatcher's: JSON, and what is signed is closed to it; with a store only what is signed by
    one of it.
    """

    def __init__(self, store: CertificateStore | None = None) -> None:
        self._store = store

    def read(self, stored: Mapping[str, Any]) -> Any:
        """See :class:`Bodies`."""
        return _decoded(self.text(stored))

    def text(self, stored: Mapping[str, Any]) -> str | bytes:
        """Return the JSON of a body, undecoded. Raises as :meth:`read`, and :class:`ClosedBody`
        where it has no store.
        """
        if not is_signed(stored):
            return _plain(stored, self._store)
        if self._store is None:
            raise ClosedBody("the body is signed, and GPUQUEUE_CERT_STORE is not set")
        return self._store.verified(stored["body"])


class ClosedBody(MalformedMessage):
    """A signed body, where there is no store of certificates: it is passed on unread."""


def is_signed(stored: Mapping[str, Any]) -> bool:
    """Whether a message comes as one that is signed."""
    return stored["content_type"] == SIGNED and not stored.get("base64")


def _decoded(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
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
    body: str = stored["body"]
    return body


def _unsigned(stored: Mapping[str, Any], fix: str) -> UntrustedMessage:
    return UntrustedMessage.field("content_type", stored["content_type"], "is not signed", fix)
