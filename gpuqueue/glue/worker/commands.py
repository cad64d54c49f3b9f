"""Commands of remote control in other forms than JSON: an application sends them as it sends its
tasks, and reads answers of the same form.

Never here: a class or a function that a command names.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, NoReturn

from celery.utils.log import get_logger
from kombu import Message
from kombu.serialization import loads, registry

logger = get_logger(__name__)
#: Parts of a command: a revoke of ten thousand ids has fewer.
LARGEST = 20_000


class Commands:
    """The commands for one mailbox of a worker, which itself reads JSON alone."""

    def __init__(self, box: Any) -> None:
        self._box = box
        # Its answers alone have the form of their commands.
        box.node.mailbox = copy(box.node.mailbox)

    def receive(self, message: Message) -> bool:
        """Run a command, and answer it in its form. Returns False for what is none."""
        try:
            command = _READERS[message.content_type](message.body)
        except Exception as exc:  # of any decoder, or a form that only an application knows
            logger.debug("not a command: %s", exc)
            return False
        if not isinstance(command, Mapping) or _is_large(command):
            return False
        mailbox = self._box.node.mailbox
        before, mailbox.serializer = mailbox.serializer, _name(message.content_type)
        try:
            self._box.on_message(command, message)
        finally:
            mailbox.serializer = before
        return True


class _Plain(pickle._Unpickler):
    """Reads what is made of texts, numbers, lists and mappings. In Python, where a number in a
    pickle allocates no memory, but for an array of bytes.
    """

    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"the command names {module}.{name}")


def _is_large(value: Any) -> bool:
    """Whether a value has more parts than any command, each counted as often as it is named: a few
    bytes can name one part a billion times.
    """
    left, seen = [value], 0
    while left:
        each = left.pop()
        seen += 1
        if seen + len(left) > LARGEST:
            return True
        if isinstance(each, Mapping):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            left += each
    return False


def _of_kombu(name: str) -> Callable[[Any], Any]:
    content_type = registry.name_to_type[name]
    return lambda body: loads(body, content_type, "binary", accept={content_type})


def _name(content_type: str) -> str:
    return str(registry.type_to_name[content_type])


_READERS: dict[str, Callable[[Any], Any]] = {
    registry.name_to_type["msgpack"]: _of_kombu("msgpack"),
    registry.name_to_type["yaml"]: _of_kombu("yaml"),
    registry.name_to_type["pickle"]: lambda body: _Plain(io.BytesIO(body)).load(),
}
