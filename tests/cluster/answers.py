"""Answers of an API server as they are: the client's types refuse some that are right, as that of a
namespace's deletion.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def raw(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a method of the client's; the JSON that it is answered.

    Raises :class:`kubernetes.client.ApiException` for any status but 2xx.
    """
    return json.loads(call(*args, _preload_content=False, **options).data)
