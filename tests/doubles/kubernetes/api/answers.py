"""Pieces of answers: bodies that are read, refusals, successes, warnings."""

from __future__ import annotations

from typing import Any

from tests.doubles.kubernetes.http.messages import Answer, Request
from tests.doubles.kubernetes.objects.errors import Refused, bad_request
from tests.doubles.kubernetes.objects.wire import decode, encode


def body_of(request: Request) -> Any:
    """The object that was sent, None if nothing was.

    Raises:
        Refused: 400, it is no JSON.
    """
    if not request.body:
        return None
    try:
        return decode(request.body)
    except ValueError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def refusal(refused: Refused) -> Answer:
    """The answer to a request that was refused."""
    return Answer(refused.code, encode(refused.status()), refused.headers)


def success(**more: Any) -> bytes:
    """The body of an answer that has no object to give."""
    return encode(
        {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", **more}
    )


def warnings(texts: list[str]) -> dict[str, str]:
    """The header that tells what was not quite right."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return {"Warning": ", ".join(f'299 - "{text}"' for text in quoted)} if texts else {}
