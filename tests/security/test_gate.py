"""The gate of the tests: it forwards both ways, has a source address, ends TLS, and closes."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.certificates import Authority
from tests.support.gate import HOST, Gate


def port_of(server: EmbeddedRedis) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def test_the_gate_forwards_both_ways_from_its_source_address() -> None:
    with EmbeddedRedis() as server, Gate(port_of(server), source="127.0.0.9") as gate:
        with redis.Redis.from_url(server.url) as local:
            # Redis 7.0 in protected mode refuses every client but 127.0.0.1 and ::1.
            local.config_set("protected-mode", "no")
        client = redis.Redis(HOST, gate.port, decode_responses=True)
        large = "x" * 1_000_000
        client.set("key", large)
        assert client.get("key") == large
        assert str(client.client_info()["addr"]).startswith("127.0.0.9:")
        client.close()


def test_the_gate_ends_tls_for_clients_that_trust_its_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("redis", [HOST])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    with EmbeddedRedis() as server, Gate(port_of(server), context=context) as gate:
        url = f"rediss://{HOST}:{gate.port}/0?ssl_ca_certs={authority.pem}"
        with redis.Redis.from_url(url) as client:
            assert client.ping()


def test_the_gate_drops_connections_when_it_or_its_server_closes() -> None:
    with EmbeddedRedis() as server:
        with Gate(port_of(server)) as gate:
            line = socket.create_connection((HOST, gate.port))
            line.sendall(b"PING\r\n")
            assert line.recv(100) == b"+PONG\r\n"
        assert line.recv(100) == b""
        line.close()
        with Gate(port_of(server)) as gate:
            server.kill()
            with socket.create_connection((HOST, gate.port)) as line:
                assert gone(line)


def gone(line: socket.socket) -> bool:
    try:
        return line.recv(100) == b""
    except ConnectionResetError:
        return True
