"""The smallest executor: records its start, claims, sleeps, reports, records its end. It runs as a
file and is not imported.

It uses a bare socket for Redis, because importing a client takes longer than the measured steps.
Its input is the environment of any executor, plus BENCH_SHAS (claim, report, reported),
BENCH_STAMPS (file) and the name of its task (``run-SECONDS``).
"""

import time

BEGUN = time.time_ns()

import os  # noqa: E402 - after the first reading of the clock
import socket  # noqa: E402


def call(link: socket.socket, sha: str, context: str) -> None:
    """Call a script. The context is JSON, written by hand: its texts need no escapes."""
    prefix = f"gpuqueue:1:{{{os.environ['GPUQUEUE_GPU_CLASS']}}}:"
    keys = [prefix + name for name in os.environ["BENCH_KEYS"].split(",")]
    words = ["EVALSHA", sha, str(len(keys)), *keys, "{" + context + "}"]
    link.sendall(
        f"*{len(words)}\r\n".encode()
        + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
    )
    answer = link.recv(65536)
    if answer[:1] == b"-" or b"refused" in answer:
        raise SystemExit(answer.decode())


env = os.environ
seconds = float(env["GPUQUEUE_TASK"].rpartition("-")[2])
if "GPUQUEUE_TOKEN" in env:
    claim, report, reported = env["BENCH_SHAS"].split(",")
    host, _, port = (
        env["GPUQUEUE_REDIS_URL"].removeprefix("redis://").partition("/")[0].partition(":")
    )
    connection = socket.create_connection((host, int(port)))
    mine = (
        f'"delivery":"{env["GPUQUEUE_DELIVERY"]}","attempt":{env["GPUQUEUE_ATTEMPT"]}'
        f',"token":"{env["GPUQUEUE_TOKEN"]}"'
    )
    instance = f"{env['GPUQUEUE_INSTANCE']}:{os.getpid()}"
    now = time.time()
    call(connection, claim, f'{mine},"instance":"{instance}","worker":"tiny","now":{now!r}')
    time.sleep(seconds)
    now = time.time()
    call(connection, report, f'{mine},"outcome":"SUCCEEDED","deadline":{now + 900!r}')
    call(connection, reported, f'{mine},"now":{now!r},"keep":86400,"deadline":{now + 300!r}')
else:
    time.sleep(seconds)
stamps = os.open(env["BENCH_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(stamps, f"{env['GPUQUEUE_JOB_ID']} {BEGUN} {time.time_ns()}\n".encode())
os._exit(0)
