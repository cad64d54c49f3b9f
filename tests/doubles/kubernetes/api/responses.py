"""Bodies of requests, and responses that many requests share."""

from __future__ import annotations

from typing import Any

from tests.doubles.kubernetes.http.messages import Request, Response
from tests.doubles.kubernetes.objects.errors import Refused, bad_request
from tests.doubles.kubernetes.objects.wire import decode, encode


def body_of(request: Request) -> Any:
    """Return the object that the client sent, None for an empty body.

    Raises:
        Refused: 400, the body is not JSON.
    """
    if not request.body:
        return None
    try:
        return decode(request.body)
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def refusal(refused: Refused) -> Response:
    """Return the response to a request that the server refuses."""
    return Response(refused.code, encode(refused.status()), refused.headers)


def success(**more: Any) -> bytes:
    """Return the body of a response that has no object."""
    return encode(
        {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", **more}
    )


def warnings(texts: list[str]) -> dict[str, str]:
    """Return the ``Warning`` header; empty if there is no warning."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return {"Warning": ", ".join(f'299 - "{text}"' for text in quoted)} if texts else {}
