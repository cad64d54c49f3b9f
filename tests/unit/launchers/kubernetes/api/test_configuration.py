"""Cluster, identity and TLS: kubeconfigs, service accounts, renewed tokens, credential plugins."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import ssl
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.errors import Unreachable
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.scripted_api import api_of, bookmark, hang, reply, serving, stream
from tests.support.waiting import PATIENCE

VERSION = reply(200, {"gitVersion": "v1.36.2"})


@pytest.fixture(autouse=True)
def _nothing_is_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
        "HTTPS_PROXY",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@dataclass(frozen=True)
class Authority:
    """Create a self-signed certificate for 127.0.0.1."""

    certificate: Path
    key: Path

    def server(self, client: Path | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if client is not None:
            context.load_verify_locations(client)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> list[Authority]:
    """Create two that do not trust each other."""
    openssl = shutil.which("openssl")
    if openssl is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is not here: apt-get install openssl")
        pytest.skip("needs openssl to make certificates with")
    folder = tmp_path_factory.mktemp("authorities")
    made = [Authority(folder / f"{number}.crt", folder / f"{number}.key") for number in range(2)]
    for each in made:
        command = (
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=here"
        )
        files = [
            "-keyout",
            str(each.key),
            "-out",
            str(each.certificate),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ]
        subprocess.run([openssl, *command.split(), *files], check=True, capture_output=True)
    return made


class Pod:
    """Make this process look like a pod: service account files, addresses in the environment."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, port: int, authority: Authority
    ) -> None:
        folder.mkdir()
        self.token = folder / "token"
        self.token.write_text("first")
        (folder / "namespace").write_text("team-a\n")
        (folder / "ca.crt").write_bytes(authority.certificate.read_bytes())
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(self.token))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(folder / "ca.crt"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the clock of the client is ahead: it rereads a token after a minute."""
    ahead = [0.0]

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) + dt.timedelta(seconds=ahead[0])

    class Module:
        datetime, timedelta = Later, dt.timedelta

    monkeypatch.setattr(incluster_config, "datetime", Module)
    return ahead


def test_pod_uses_its_service_account(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    authorities: list[Authority],
    clock: list[float],
) -> None:
    """It uses the current token: kubelets replace it while the pod lives."""
    with serving(VERSION, tls=authorities[0].server()) as server:
        pod = Pod(tmp_path / "account", monkeypatch, server.port, authorities[0])
        api = Api(ClusterSettings())
        assert api.namespace == "team-a"
        assert api.server_version() == "v1.36.2"
        pod.token.write_text("second")
        clock[0] = 61
        api.server_version()
        assert [asked.headers["authorization"] for asked in server.asked] == [
            "bearer first",
            "bearer second",
        ]


def test_token_during_its_replacement_is_a_passing_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    authorities: list[Authority],
    clock: list[float],
) -> None:
    with serving(VERSION, tls=authorities[0].server()) as server:
        pod = Pod(tmp_path / "account", monkeypatch, server.port, authorities[0])
        api = Api(ClusterSettings())
        pod.token.write_text("")
        clock[0] = 61
        with pytest.raises(
            Unreachable, match="the credentials cannot be renewed: Token file exists but empty"
        ) as raised:
            api.server_version()
        assert raised.value.passing
        pod.token.write_text("third")
        assert api.server_version() == "v1.36.2"


def test_clusters_with_one_address_differ_by_their_ca(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorities: list[Authority]
) -> None:
    identities = []
    for number, authority in enumerate(authorities):
        Pod(tmp_path / f"account{number}", monkeypatch, 443, authority)
        identities.append(Api(ClusterSettings()).identity)
    assert identities[0] != identities[1]
    assert all(identity.startswith("https://127.0.0.1:443 ") for identity in identities)


def test_server_with_another_ca_is_rejected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorities: list[Authority]
) -> None:
    with serving(VERSION, tls=authorities[1].server()) as server:
        Pod(tmp_path / "account", monkeypatch, server.port, authorities[0])
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            Api(ClusterSettings()).server_version()
        assert server.asked == []


def test_watch_over_tls_can_be_closed_while_it_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorities: list[Authority]
) -> None:
    with serving(stream(bookmark(6), then=hang), tls=authorities[0].server()) as server:
        Pod(tmp_path / "account", monkeypatch, server.port, authorities[0])
        watch = Api(ClusterSettings()).watch_pods("a=b", "5", 60, 60)
        events: list[Any] = []
        first, ended = threading.Event(), threading.Event()

        def follow() -> None:
            for event in watch:
                events.append(event)
                first.set()
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        assert first.wait(PATIENCE)
        watch.close()
        assert ended.wait(PATIENCE), "long before the stream is silent for too long"
        assert len(events) == 1


def kubeconfig(
    folder: Path,
    server: str,
    user: dict[str, Any],
    cluster: dict[str, Any] | None = None,
    **context: str,
) -> Path:
    file = folder / "config"
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **context}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
    }
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **parts}))
    return file


def test_client_certificate_authenticates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorities: list[Authority]
) -> None:
    """Paths are relative to the directory of the kubeconfig, as minikube writes them."""
    ours, theirs = authorities
    for file in (ours.certificate, ours.key, theirs.certificate):
        shutil.copy(file, tmp_path)
    with serving(VERSION, tls=theirs.server(client=ours.certificate)) as server:
        user = {"client-certificate": ours.certificate.name, "client-key": ours.key.name}
        cluster = {"certificate-authority": theirs.certificate.name}
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.url, user, cluster)))
        assert Api(ClusterSettings()).server_version() == "v1.36.2"


def test_kubeconfig_wins_over_service_account_over_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authorities: list[Authority]
) -> None:
    kubeconfig(tmp_path / "home/.kube", "http://default.example", {"token": "t"})
    assert Api(ClusterSettings()).server == "http://default.example"
    Pod(tmp_path / "account", monkeypatch, 6443, authorities[0])
    assert Api(ClusterSettings()).server == "https://127.0.0.1:6443"
    monkeypatch.setenv(
        "KUBECONFIG", str(kubeconfig(tmp_path / "named", "http://named.example/", {"token": "t"}))
    )
    assert Api(ClusterSettings()).server == "http://named.example"


@pytest.mark.parametrize(
    ("setting", "context", "namespace"),
    [("set", "context", "set"), (None, "context", "context"), (None, None, "default")],
)
def test_namespace_comes_from_setting_then_context_then_default(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    setting: str | None,
    context: str | None,
    namespace: str,
) -> None:
    here: dict[str, Any] = {"namespace": context} if context else {}
    file = kubeconfig(tmp_path, "http://here.example", {"token": "t"}, **here)
    monkeypatch.setenv("KUBECONFIG", str(file))
    assert Api(ClusterSettings(job_namespace=setting)).namespace == namespace


def test_error_without_a_cluster_lists_what_was_tried() -> None:
    with pytest.raises(SettingsError) as raised:
        Api(ClusterSettings())
    for words in (
        "KUBECONFIG is not set",
        "not in a pod with a service account",
        ".kube/config does not exist",
        "set KUBECONFIG",
    ):
        assert words in str(raised.value)


BROKEN = [
    ("no such file", None),
    ("current-context", "apiVersion: v1\nkind: Config\n"),
    ("file is empty", ""),
    ("mapping values are not allowed", "a: b: c"),
    ("object with name absent", "current-context: absent\ncontexts: []\n"),
    ("cannot be used", "just text"),
]


@pytest.mark.parametrize(("words", "text"), BROKEN)
def test_error_names_an_invalid_kubeconfig(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, text: str | None
) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(
        SettingsError, match="correct it, or set KUBECONFIG to another file"
    ) as raised:
        Api(ClusterSettings())
    assert f"KUBECONFIG={str(file)!r} cannot be used: " in str(raised.value)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def plugin(script: str) -> dict[str, Any]:
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": ["-c", script],
        }
    }


def test_credential_plugin_runs_again_for_an_expired_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    status = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "T"},
    }
    script = f"""
import json, pathlib
count = pathlib.Path({str(count)!r})
count.write_text(count.read_text() + "x" if count.exists() else "x")
told = {status!r}
told["status"] = {{"token": count.read_text(), "expirationTimestamp": "2020-01-01T00:00:00Z"}}
print(json.dumps(told))
"""
    with serving(VERSION) as server:
        api = api_of(server, monkeypatch, tmp_path, plugin(script))
        api.server_version()
        api.server_version()
        assert [asked.headers["authorization"] for asked in server.asked] == [
            "bearer xx",
            "bearer xxx",
        ]


def test_error_names_a_failed_credential_plugin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client alone would continue without credentials."""
    with pytest.raises(SettingsError, match="returned no credentials"):
        api_of("http://here.example", monkeypatch, tmp_path, plugin("raise SystemExit(3)"))


def test_token_is_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    with serving(VERSION) as server:
        assert (
            api_of(server, monkeypatch, tmp_path, {"tokenFile": str(file)}).server_version()
            == "v1.36.2"
        )
        assert server.asked[0].headers["authorization"] == "bearer from-a-file"


def test_error_for_an_invalid_token_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(VERSION) as server:
        api = api_of(server, monkeypatch, tmp_path, {"token": "secret\nlines"})
        with pytest.raises(
            Unreachable, match="the token has characters that a header cannot have"
        ) as raised:
            api.server_version()
        assert "secret" not in "".join(traceback.format_exception(raised.value))


def test_basic_auth_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(VERSION) as server:
        api_of(
            server, monkeypatch, tmp_path, {"username": "me", "password": "secret"}
        ).server_version()
        assert server.asked[0].headers["authorization"].startswith("basic ")
