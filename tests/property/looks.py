"""What the store says of the class ``t4``."""

from __future__ import annotations

from gpuqueue.model.record import Record
from gpuqueue.store.reader import Reader


class Looks:
    """Looks at records and holders."""

    reader: Reader

    def record(self, name: str) -> Record:
        found = self.reader.record("t4", name)
        assert found is not None
        return found

    def holders(self) -> list[str]:
        return [attempt.holder for attempt, _ in self.reader.holders("t4")]
