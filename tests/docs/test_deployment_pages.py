"""The commands of the pages for operators: run as far as possible without a cluster, otherwise
parsed by the program itself.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuqueue.classes.toml_file import from_toml
from gpuqueue.cli import cli
from gpuqueue.model.names import MIG_PROFILE
from tests.deploy.rendering import (
    APPLICATIONS,
    CHART,
    OVERLAYS,
    application,
    chart,
    overlay,
    parse,
    render,
    values,
)
from tests.deploy.test_alerts import rules
from tests.deploy.test_rbac import granted
from tests.deploy.test_schemas import NEWEST, check
from tests.deploy.tools import ROOT, call
from tests.support.pages import Page

GPU = Page("docs/GPU.md")
DEPLOY = Page("docs/operate/deploy.md")
NODES = Page("docs/operate/gpu-nodes.md")
CLUSTER_SECURITY = Page("docs/operate/security-cluster.md")
#: Pages whose every command is checked here.
PAGES = (
    GPU,
    DEPLOY,
    NODES,
    CLUSTER_SECURITY,
    *(
        Page(f"docs/operate/{name}.md")
        for name in (
            "alerts",
            "maintenance",
            "security",
            "security-redis",
            "signed-messages",
            "troubleshooting",
        )
    ),
)
#: Pages whose commands for the cluster are checked here, and the others by
#: test_commands.py.
PARTLY = (Page("README.md"), Page("docs/operate/metrics.md"))
#: An address without a server.
NOWHERE = "--server=http://127.0.0.1:1"


def commands(page: Page) -> list[str]:
    """Each line of the page's shell blocks, and each code span of the form of a command."""
    text = re.sub(r"^```.*?^```", "", page.text, flags=re.MULTILINE | re.DOTALL)
    typed = [line for block in page.blocks("sh") for line in block.splitlines()]
    return typed + in_words(text)


def in_words(text: str) -> list[str]:
    """Return the commands in a text."""
    return [
        each
        for each in re.findall(r"`([^`]+)`", text)
        if re.match(r"(kubectl|helm|gpuqueue) [a-z-]", each)
    ]


ALL = sorted({(command, page.path) for page in PAGES for command in commands(page)})
ALL += [
    (each, page.path)
    for page in PARTLY
    for each in commands(page)
    if each.startswith(("kubectl ", "helm "))
]


@pytest.mark.parametrize(("command", "page"), ALL, ids=[command for command, _ in ALL])
def test_a_command_of_the_docs_works(command: str, page: str, tmp_path: Path) -> None:
    program, *words = shlex.split(command)
    {"kubectl": kubectl, "helm": helm, "gpuqueue": gpuqueue}[program](words, tmp_path)


@pytest.mark.parametrize("alert", sorted({each["alert"] for each in rules()}))
def test_a_command_of_an_alert_works(alert: str, tmp_path: Path) -> None:
    for rule in rules():
        for command in (
            in_words(rule["annotations"]["description"]) if rule["alert"] == alert else ()
        ):
            program, *words = shlex.split(command)
            {"kubectl": kubectl, "gpuqueue": gpuqueue}[program](words, tmp_path)


def gpuqueue(words: list[str], folder: Path) -> None:
    """Parse a command of gpuqueue; a word alone names a command."""
    with cli.make_context("gpuqueue", words) as context:
        found = cli.get_command(context, words[0])
        assert found is not None, words
        if len(words) > 1 or words[0] in ("status", "doctor"):
            found.make_context(words[0], words[1:], parent=context)


def kubectl(words: list[str], folder: Path) -> None:
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
        gpuqueue(rest, folder)
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


def helm(words: list[str], folder: Path) -> None:
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


def test_pages_for_operators_have_blocks_of_known_languages() -> None:
    for page in PAGES:
        opened = re.findall(r"^```(\w*)$", page.text, re.MULTILINE)[::2]
        assert set(opened) <= {"sh", "python", "toml", "yaml"}, page.path


# -- the path --------------------------------------------------------------------------------------


def test_the_steps_from_nodes_to_a_job_are_numbered_in_order() -> None:
    steps = re.findall(
        r"^\*\*(\d)\. ", DEPLOY.section("## From bare nodes to the first job"), re.MULTILINE
    )
    assert steps == [str(number) for number in range(1, 10)]


def test_the_deployment_creates_the_secrets_that_pods_read() -> None:
    made = dict(re.findall(r"create secret generic (\S+) --from-literal=(\w+)=", DEPLOY.text))
    (template,) = OVERLAYS.parent.rglob("*.template.yaml")
    wanted = {
        each["metadata"]["name"]: next(iter(each["stringData"]))
        for each in yaml.safe_load_all(template.read_text())
    }
    assert made == wanted
    found = values("production")
    assert {found["redis"]["existingSecret"], found["flower"]["auth"]["existingSecret"]} == set(
        made
    )


def test_the_jobs_of_the_docs_go_to_queues_that_are_served() -> None:
    (block,) = DEPLOY.blocks("python")
    sent: list[dict[str, Any]] = []

    class Train:
        def apply_async(self, args: object, **options: Any) -> None:
            sent.append(options)

    exec(block.replace("from shop import train", ""), {"train": Train()})
    served = [
        word
        for _, pod in overlay("production").pods()
        for word in pod["spec"]["containers"][0]["args"]
    ]
    queues = [
        queue
        for word in served
        if word.startswith("--queues=")
        for queue in word.partition("=")[2].split(",")
    ]
    assert [each["queue"] for each in sent] == ["gpu.t4.shared", "gpu.mig"]
    assert {each["queue"] for each in sent} <= set(queues)


# -- tables and blocks -----------------------------------------------------------------------------


def test_the_mig_profiles_are_valid_and_fit_on_a_gpu() -> None:
    rows = GPU.tables("## MIG")[0]
    assert len(rows) > 5
    for gpu, cell in rows:
        for profile, count in re.findall(r"(\S+) × (\d)", cell):
            assert MIG_PROFILE.match(f"mig-{profile}"), (gpu, profile)
            assert int(profile[0]) * int(count) <= 7
        names = re.findall(r"(\S+) ×", cell)
        assert names == sorted(
            names, key=lambda name: (int(name[0]), int(re.findall(r"(\d+)gb", name)[0]))
        )


def test_the_mig_layouts_match_the_values_of_the_operator() -> None:
    config = application("gpu-operator")["spec"]["source"]["helm"]["valuesObject"]["migManager"][
        "config"
    ]
    layouts = yaml.safe_load(config["data"]["config.yaml"])["mig-configs"]
    (sentence,) = re.findall(r"\*\*Layouts\*\*.*?\n- ", GPU.section("## MIG"), re.DOTALL)
    assert set(re.findall(r"`((?:all|a100)-[\w.-]+)`", sentence)) == set(layouts)
    named = [each for page in PAGES for each in re.findall(r"mig\.config=(\S+)", page.text)]
    assert named and set(named) <= set(layouts)
    classes = from_toml(GPU.blocks("toml", "## MIG")[0], "classes.toml")
    (mixed,) = layouts["a100-40gb-mixed"]
    assert {each.name: each.exclusive_slots for each in classes.values()} == {
        f"mig-{profile}": count for profile, count in mixed["mig-devices"].items()
    }
    assert all(each.resource == f"nvidia.com/{each.name}" for each in classes.values())
    assert all(each.slices == int(each.name[4]) for each in classes.values())


@pytest.mark.parametrize("text", [block for page in PAGES for block in page.blocks("toml")])
def test_the_classes_files_of_the_docs_are_valid(text: str) -> None:
    assert len(from_toml(text, "classes.toml")) > 1


def test_the_profile_for_mps_and_the_device_class_are_valid() -> None:
    mps, device_class = (yaml.safe_load(block) for block in NODES.blocks("yaml"))
    check(device_class, NEWEST)
    assert device_class["spec"]["extendedResourceName"] in NODES.text.replace(
        NODES.blocks("yaml")[1], ""
    )
    sliced = application("gpu-operator")["spec"]["source"]["helm"]["valuesObject"]["devicePlugin"][
        "config"
    ]["data"]["tesla-t4"]
    assert mps["sharing"].keys() == {"mps"} and yaml.safe_load(sliced)["sharing"].keys() == {
        "timeSlicing"
    }


def test_node_labels_match_the_manifests() -> None:
    labels = [row[0].strip("`") for row in NODES.tables("## Labels of nodes")[0]]
    assert len(labels) == len(set(labels))
    text = "\n".join(
        path.read_text()
        for path in [*APPLICATIONS.glob("*.yaml"), *OVERLAYS.parent.rglob("*.yaml")]
    )
    for needed in (
        "nvidia.com/device-plugin.config",
        "nvidia.com/mig.config",
        "nvidia.com/gpu.product",
        "nvidia.com/gpu.present",
    ):
        assert needed in labels and needed in text
    for used in re.findall(
        r"nvidia\.com/(?:mig\.config|gpu\.[a-z]+|device-plugin)[\w.]*(?= |=|,|`)",
        "\n".join(page.text for page in PAGES),
    ):
        assert used.rstrip(".") in labels or used in ("nvidia.com/gpu.shared",), used


# -- security --------------------------------------------------------------------------------------


def test_the_table_of_rights_matches_the_role() -> None:
    told = {
        (row[0].strip("`"), verb.strip())
        for row in CLUSTER_SECURITY.tables("## Rights")[0]
        for verb in row[1].split(",")
    }
    (role,) = overlay("production").of("Role")
    assert told == {(resource, verb) for _, resource, verb in granted(role)}


def test_the_chart_accepts_the_egress_rule_of_the_docs() -> None:
    (block,) = CLUSTER_SECURITY.blocks("yaml")
    found = chart({**values("minimal"), **yaml.safe_load(block)})
    rule = found.one("NetworkPolicy", "gpu-gpuqueue-executors")["spec"]["egress"][-1]
    assert rule == yaml.safe_load(block)["network"]["executors"]["egress"][0]
    for each in found.of("NetworkPolicy"):
        check(each, NEWEST)


def test_the_network_table_matches_the_network_policies() -> None:
    pods = {row[0] for row in CLUSTER_SECURITY.tables("## Network")[0]}
    assert pods == {
        "dispatchers",
        "executors",
        "container jobs",
        "Flower",
        "built-in Redis (trials)",
    }
    assert len(render("chart", "trial").of("NetworkPolicy")) == len(pods)


# -- the chart's own page --------------------------------------------------------------------------


def test_the_chart_accepts_the_values_of_its_page() -> None:
    page = Page("charts/gpuqueue/README.md")
    trial, several = (yaml.safe_load(block) for block in page.blocks("yaml"))
    assert len(chart(trial).of("StatefulSet")) == 1
    assert len(chart({**values("minimal"), **several}).of("Deployment")) == 3
    (least, _) = page.blocks("sh")
    assert parse(succeed("helm", "template", *shlex.split(least)[2:]))


def test_values_in_the_docs_exist_in_the_chart() -> None:
    parts = "redis|jobs|network|flower|monitoring|image"
    names = {
        path
        for page in (*PAGES, *PARTLY)
        for path in re.findall(rf"`((?:{parts})\.[\w.]+)`", page.text)
    }
    assert names
    for name in names:
        found: Any = yaml.safe_load((CHART / "values.yaml").read_text())
        for part in name.split("."):
            assert part in found, name
            found = found[part]
