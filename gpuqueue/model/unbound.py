"""Names of domains whose node does not exist yet: an autoscaler adds it for their pods. Pure."""

from __future__ import annotations

import re

#: Such a name is a label value of Kubernetes, but no node can have it. No name is given twice.
PREFIX = "new_"
_NAME = re.compile(rf"{PREFIX}\d+\Z", re.ASCII)
#: What the state adds to the room of such a domain: those that have a node come first.
LATER = 1_000_000
#: The most nodes that a class can have: each is an entry in Redis.
MOST_NODES = 5_000


def is_unbound(domain: str) -> bool:
    """Whether a domain has no node yet."""
    return _NAME.match(domain) is not None
