"""What the tests of security share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.guarded import Guarded


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A Redis with the users of deploy/redis/users.acl."""
    with Guarded(tmp_path_factory.mktemp("redis")) as server:
        yield server
