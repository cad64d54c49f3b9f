"""Reading bodies: who may decode which content. An application reads what its configuration
accepts, as a Celery worker does; a dispatcher reads JSON, and passes any other content on unread.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Protocol

from celery import Celery
from kombu.exceptions import ContentDisallowed, SerializerNotInstalled
from kombu.serialization import loads, prepare_accept_content, registry

from gpuqueue.errors import MalformedMessage, UntrustedMessage, shown
from gpuqueue.glue.messages.signed import JSON, SIGNED, CertificateStore, json_within, untrusted
from gpuqueue.model.text import fits

#: The fix for a body that is not what its message says.
PROTOCOL = "send Celery's task protocol 2: [args, kwargs, embed]"
#: The fix for content that is not accepted.
AS_JSON = "send it as JSON (task_serializer = 'json')"
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
    """Bodies as a Celery worker of the application reads them: kombu decodes what
    ``accept_content`` names, with all types and serializers that the application has registered.

    If it names ``auth``, only JSON and signed bodies of JSON are decoded.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def read(self, stored: Mapping[str, Any]) -> Any:
        """See :class:`Bodies`."""
        types, content_type, body = accepted(self._app), stored["content_type"], raw(stored)
        if not isinstance(content_type, str) or content_type not in types:
            raise _not_accepted(stored, types)
        if content_type == SIGNED:
            json_within(body)
        try:
            return loads(body, content_type, stored["content_encoding"], accept=types)
        except ContentDisallowed as exc:  # of what is signed
            raise MalformedMessage.body(
                stored["body"], f"cannot be read: {exc}", "sign JSON"
            ) from exc
        except Exception as exc:  # Celery's SecurityError, or any error of a decoder
            if content_type == SIGNED:
                raise untrusted(f"{stored['body'][:80]}...", exc) from exc
            raise _unreadable(stored, exc) from exc


def accepted(app: Celery) -> set[str]:
    """Return the content types that an application accepts. Raises :class:`MalformedMessage` if its
    ``accept_content`` names what it does not know.
    """
    names = app.conf.accept_content or ["json"]
    try:
        types: set[str] = prepare_accept_content(names)
    except SerializerNotInstalled as exc:
        problem = f"accept_content of the application: {exc}"
        if "auth" in names and "auth" not in registry.name_to_type:
            raise UntrustedMessage(f"{problem}; call app.setup_security() in it") from exc
        raise MalformedMessage(
            f"{problem}; call kombu.serialization.register() where the application is imported"
        ) from exc
    return types & {JSON, SIGNED} if SIGNED in types else types


class DispatcherBodies:
    """Bodies as a dispatcher reads them: JSON, and nothing else. With a certificate store, only
    signed bodies that one of its certificates verifies.
    """

    def __init__(self, store: CertificateStore | None = None) -> None:
        self._store = store

    def read(self, stored: Mapping[str, Any]) -> Any:
        """See :class:`Bodies`. What kombu writes for a type stays as it is: it is sent on as it
        came, and dispatchers lack the types of applications.
        """
        return decoded(self.text(stored))

    def text(self, stored: Mapping[str, Any]) -> str | bytes:
        """Return the JSON of a body, undecoded.

        Raises as :meth:`read`, and :class:`ClosedBody` for one that this dispatcher passes on.
        """
        return self.opened(stored)[0]

    def opened(self, stored: Mapping[str, Any]) -> tuple[str | bytes, list[str]]:
        """Return the JSON of a body, and the tenants that the certificate of its sender names. An
        empty list: it names none, or there is none.
        """
        content_type = stored["content_type"]
        if is_signed(stored):
            if self._store is None:
                raise ClosedBody("the body is signed, and GPUQUEUE_CERT_STORE is not set")
            return self._store.opened(raw(stored))
        if self._store is not None:
            raise _unsigned(stored, "sign it, or unset GPUQUEUE_CERT_STORE of the dispatchers")
        if not fits(content_type):
            raise MalformedMessage.field(
                "content_type", content_type, "is not a content type", AS_JSON
            )
        if content_type != JSON:
            raise ClosedBody(f"the body is {content_type}, and dispatchers decode only JSON")
        body = stored["body"]
        if not isinstance(body, str):
            raise MalformedMessage.body(body, "is not text", PROTOCOL)
        if stored.get("base64"):
            raise MalformedMessage.body(body, "is not JSON: it is not UTF-8", PROTOCOL)
        return body, []


class ClosedBody(MalformedMessage):
    """A body that only its application can read: the dispatcher passes it on unread."""


def is_signed(stored: Mapping[str, Any]) -> bool:
    """Return whether a message has a signed body."""
    return bool(stored["content_type"] == SIGNED)


def raw(stored: Mapping[str, Any]) -> bytes:
    """Return the body of a stored message as its sender encoded it. Raises
    :class:`MalformedMessage`.
    """
    body = stored["body"]
    try:
        return base64.b64decode(body) if stored.get("base64") else body.encode()
    except (AttributeError, TypeError, ValueError):
        raise MalformedMessage.body(body, "is not text", PROTOCOL) from None


def decoded(text: str | bytes) -> Any:
    """Return what JSON says, as Python reads it: NaN, Infinity and half a surrogate pair, too.

    Raises :class:`MalformedMessage`.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except ValueError as exc:
        raise MalformedMessage.body(text, f"is not JSON: {exc}", PROTOCOL) from None
    except RecursionError:
        raise MalformedMessage.body(text, "is nested too deeply", PROTOCOL) from None


def _not_accepted(stored: Mapping[str, Any], types: set[str]) -> MalformedMessage:
    content_type = stored["content_type"]
    if SIGNED in types:
        return _unsigned(
            stored, "sign it: the application accepts what its setup_security() verifies"
        )
    known = sorted(_name(each) for each in types)
    named = content_type if isinstance(content_type, str) else ""
    if named in registry.type_to_name:
        fix = f"add {_name(named)!r} to it, or {AS_JSON}"
    else:
        fix = f"register its serializer in the application and add it, or {AS_JSON}"
    return MalformedMessage.field(
        "content_type", content_type, f"is not in accept_content={known} of the application", fix
    )


def _unreadable(stored: Mapping[str, Any], exc: BaseException) -> MalformedMessage:
    """Return the error for a body that the decoder of its content type cannot read."""
    name = _name(stored["content_type"])
    fix = f"send it with the serializer {name!r} of Celery"
    if isinstance(exc, SerializerNotInstalled):
        fix = "install it in the environment of the application"
    elif name == "json":
        fix = f"{PROTOCOL}, and register its types in the application (kombu.utils.json)"
    return MalformedMessage.body(
        stored["body"], f"cannot be read as {name}: {shown(exc, 200)}", fix
    )


def _name(content_type: str) -> str:
    """Return the name of a serializer, as settings name it."""
    return str(registry.type_to_name.get(content_type, content_type))


def _unsigned(stored: Mapping[str, Any], fix: str) -> UntrustedMessage:
    return UntrustedMessage.field("content_type", stored["content_type"], "is not signed", fix)
