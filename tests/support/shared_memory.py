"""A process that ends without removing its shared memory, as a crash does."""

from __future__ import annotations

#: Prints the name of its shared memory to the file ``{path}``, and aborts once its resource tracker
#: would remove it: that ignores SIGINT from then on.
LEAVES_SHARED_MEMORY = """
import os, resource, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=16)
with open({path!r}, "w") as file:
    file.write(memory.name)
def ignores_interrupts():
    with open(f"/proc/{{resource_tracker._resource_tracker._pid}}/status") as status:
        return any(int(line.split()[1], 16) & 2 for line in status if line.startswith("SigIgn"))
while not ignores_interrupts():
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.abort()
"""
