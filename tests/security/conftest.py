"""What the tests of security share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.acl_redis import AclRedis


@pytest.fixture(scope="module")
def acl_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AclRedis]:
    """A Redis with the users of deploy/redis/users.acl."""
    with AclRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server
