"""The messages between dispatchers and runners."""

from __future__ import annotations

import pytest

from gpuqueue.launchers.local import wire


def test_messages_are_put_together_from_any_parts() -> None:
    sent = wire.encode("start", nonce="a", variables={"X": "ä\n"}) + wire.encode("hello")
    lines = wire.Lines()
    found = [message for each in sent for message in lines.feed(bytes([each]))]
    assert found == [{"is": "start", "nonce": "a", "variables": {"X": "ä\n"}}, {"is": "hello"}]


@pytest.mark.parametrize("text", [b"nothing\n", b"[1]\n", b"{}\n", b'{"is": 1}\n', b"\xff\n"])
def test_what_is_no_message_is_refused(text: bytes) -> None:
    with pytest.raises(wire.Malformed):
        list(wire.Lines().feed(text))


def test_endless_line_is_refused() -> None:
    with pytest.raises(wire.Malformed, match="more than"):
        list(wire.Lines().feed(b"x" * (wire.LONGEST + 1)))
