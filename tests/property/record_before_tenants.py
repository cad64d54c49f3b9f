"""Records before-tenants.json: the state of a class with jobs of tenants, as the last version left
it that knew no lines of tenants. Run it with the code of that version (commit b9934928):
``PYTHONPATH=CODE python record_before_tenants.py before-tenants.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from gpuqueue.store.line import Line
from tests.upgrade.state import dump

T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)


def main(path: Path) -> None:
    """Two jobs of one tenant run, and many wait: six of it, then two of another one, one without a
    tenant, one exclusive, one with an eta.
    """
    with EmbeddedRedis() as server:
        client = connect(server.url)
        line = Line(client)
        line.open("t4")
        for name, tenant, more in (
            *((f"a{number}", "a", {}) for number in range(8)),
            *((f"b{number}", "b", {}) for number in range(2)),
            ("none", "", {}),
            ("alone", "b", {"isolation": "exclusive", "priority": 9}),
            ("later", "c", {"eta": 4e9}),
        ):
            record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
            record |= {"tenant": tenant} if tenant else {}
            line.take_in(T4, record | more, "{}")
        path.write_text(json.dumps(dump(client, {}), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
