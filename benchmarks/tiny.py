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


def call(link: socket.socket, sha: str, *arguments: str) -> None:
    prefix = f"gpuqueue:1:{{{os.environ['GPUQUEUE_GPU_CLASS']}}}:"
    keys = [prefix + name for name in os.environ["BENCH_KEYS"].split(",")]
    words = ["EVALSHA", sha, str(len(keys)), *keys, *arguments]
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
    mine = (env["GPUQUEUE_DELIVERY"], env["GPUQUEUE_ATTEMPT"], env["GPUQUEUE_TOKEN"])
    call(
        connection,
        claim,
        *mine,
        f"{env['GPUQUEUE_INSTANCE']}:{os.getpid()}",
        "tiny",
        repr(time.time()),
    )
    time.sleep(seconds)
    call(connection, report, *mine, "SUCCEEDED", repr(time.time() + 900))
    call(connection, reported, *mine, repr(time.time()), "86400", repr(time.time() + 300))
else:
    time.sleep(seconds)
stamps = os.open(env["BENCH_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(stamps, f"{env['GPUQUEUE_JOB_ID']} {BEGUN} {time.time_ns()}\n".encode())
os._exit(0)
