"""Checks of commands for a cluster, without a cluster: kubectl and helm read them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.deploy.rendering import application, overlay, parse
from tests.deploy.tools import ROOT, call
from tests.docs.checks import check_gpuqueue

#: An address without a server.
NOWHERE = "--server=http://127.0.0.1:1"


def check_cluster_kubectl(words: list[str], page: str, folder: Path) -> None:
    """Let kubectl read the words, render what it can, and compare the names with the manifests."""
    verb = next(word for word in words[2 if words[0] == "-n" else 0 :])
    if verb == "label" and "namespace" not in words:
        label(words, folder)
    elif verb == "create":
        succeed("kubectl", *words, "--dry-run=client", "-o", "yaml")
    elif verb == "apply" and "-k" in words:
        assert parse(succeed("kubectl", "kustomize", words[words.index("-k") + 1]))
    elif verb == "apply":
        assert application(Path(words[words.index("-f") + 1]).stem)
    else:
        understood(words)
    for path in [word.removeprefix("jsonpath=") for word in words if word.startswith("jsonpath=")]:
        assert seen(path, folder) in ("8", "7")
    if "--" in words:
        program, *rest = words[words.index("--") + 1 :]
        assert program == "gpuqueue"
        check_gpuqueue(rest, page, folder)
    named(words)


def label(words: list[str], folder: Path) -> None:
    """Label a node from a file."""
    node = folder / "node.json"
    node.write_text(json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "NODE"}}))
    (pair,) = [word for word in words if "=" in word and (words[words.index(word) - 1] != "-l")]
    done = succeed("kubectl", "label", "--local", "-f", str(node), pair, "-o", "json")
    key, _, value = pair.partition("=")
    assert json.loads(done)["metadata"]["labels"] == {key: value}
    understood(words)


def seen(path: str, folder: Path) -> str:
    """Return the output of a path for a node after step 3 or step 4."""
    allocatable = {"cpu": "8", "nvidia.com/gpu": "8", "nvidia.com/mig-1g.5gb": "7"}
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "NODE"},
        "status": {"allocatable": allocatable},
    }
    (folder / "node.json").write_text(json.dumps(node))
    return succeed(
        "kubectl",
        "label",
        "--local",
        "-f",
        str(folder / "node.json"),
        "a=b",
        "-o",
        f"jsonpath={path}",
    )


def understood(words: list[str]) -> None:
    """kubectl parses all words before it connects, and fails only because there is no server."""
    at = words.index("--") if "--" in words else len(words)
    done = call("kubectl", *words[:at], NOWHERE, *words[at:])
    assert done.returncode != 0
    assert (
        "127.0.0.1:1 was refused" in done.stderr
        or "dial tcp 127.0.0.1:1: connect: connection refused" in done.stderr
    ), done.stderr
    assert "unknown" not in done.stderr


def named(words: list[str]) -> None:
    """Named objects exist: our deployments and namespaces, and the daemon sets of the operator by
    their names.
    """
    deployments = {each["metadata"]["name"] for each in overlay("production").of("Deployment")}
    theirs = {"nvidia-device-plugin-daemonset", "nvidia-mig-manager"}
    for word in words:
        kind, _, name = word.partition("/")
        if (ROOT / word).exists():
            continue
        if kind in ("deploy", "deployment"):
            assert name in deployments
        elif kind == "daemonset":
            assert name in theirs
    if words[0] == "-n":
        assert words[1] in ("mlops-saas", "gpu-operator", "argocd")


def check_helm(words: list[str], page: str, folder: Path) -> None:
    """Render our chart; compare the operator's chart with the ArgoCD application."""
    if words[:2] == ["repo", "add"]:
        source = application("gpu-operator")["spec"]["source"]
        assert words[2:] == ["nvidia", source["repoURL"]]
    elif words[:2] == ["install", "gpu"]:
        assert parse(succeed("helm", "template", *words[1:]))
        assert "NOTES:" in succeed("helm", *words, "--dry-run=client")
    else:
        source = application("gpu-operator")["spec"]["source"]
        assert words[:3] == ["install", source["helm"]["releaseName"], f"nvidia/{source['chart']}"]
        assert words[words.index("--version") + 1] == source["targetRevision"]
        done = call("helm", *words)  # parsed completely; then the repository is missing
        assert "repo nvidia not found" in done.stderr, done.stderr


def succeed(program: str, *words: str) -> str:
    done = call(program, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout
