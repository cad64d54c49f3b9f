"""The pages about production agree with the chart, the manifests and the alerts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51

from gpuqueue.classes.toml_file import from_toml
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
from tests.docs.cluster_checks import succeed
from tests.docs.test_commands import check_command
from tests.docs.typed import PRODUCTION, in_words
from tests.support.pages import Page

GPU = Page("docs/GPU.md")
DEPLOY = Page("docs/operate/deploy.md")
NODES = Page("docs/operate/gpu-nodes.md")
CLUSTER_SECURITY = Page("docs/operate/security-cluster.md")
#: Pages about production.
PAGES = [Page(path) for path in PRODUCTION]


@pytest.mark.parametrize("alert", sorted({each["alert"] for each in rules()}))
def test_a_command_of_an_alert_works(alert: str, tmp_path: Path) -> None:
    for rule in rules():
        if rule["alert"] == alert:
            for command in in_words(rule["annotations"]["description"]):
                check_command(command, GPU.path, tmp_path)


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
    redis, flower = found["redis"], found["flower"]["auth"]
    assert {redis["existingSecret"], redis["flowerSecret"], flower["existingSecret"]} == set(made)


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


def test_the_parent_application_syncs_the_folder_of_the_applications() -> None:
    parent, settings = (
        yaml.safe_load(block) for block in DEPLOY.blocks("yaml", "## A parent application")
    )
    ours = application("gpuqueue")["spec"]
    source = parent["spec"]["source"]
    assert (source["repoURL"], source["targetRevision"]) == (
        ours["source"]["repoURL"],
        ours["source"]["targetRevision"],
    )
    assert sorted((APPLICATIONS.parents[2] / source["path"]).glob("*.yaml")) == sorted(
        APPLICATIONS.glob("*.yaml")
    )
    (check_of_health,) = settings["data"].values()
    run = lua51.LuaRuntime().execute
    for health, wanted in (("", "Progressing"), ('health = {status = "Degraded"}', "Degraded")):
        answer = run(f"obj = {{status = {{{health}}}}}\n{check_of_health}")
        assert answer["status"] == wanted
    assert run(f"obj = {{}}\n{check_of_health}")["status"] == "Progressing"


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


def test_the_mig_layouts_of_the_docs_are_ones_that_are_generated() -> None:
    generated = {"all-disabled", "all-balanced"} | {
        f"all-{profile}"
        for _, cell in GPU.tables("## MIG")[0]
        for profile in re.findall(r"(\S+) ×", cell)
    }
    (sentence,) = re.findall(r"\*\*Layouts\*\*.*?\n- ", GPU.section("## MIG"), re.DOTALL)
    assert set(re.findall(r"`(all-[\w.-]+)`", sentence)) <= generated
    named = [each for page in PAGES for each in re.findall(r"mig\.config=(\S+)", page.text)]
    assert named and set(named) <= generated
    classes = from_toml(GPU.blocks("toml", "## MIG")[0], "classes.toml")
    # What all-balanced of an A100 40GB has.
    assert {each.name: each.exclusive_slots for each in classes.values()} == {
        "mig-1g.5gb": 2,
        "mig-2g.10gb": 1,
        "mig-3g.20gb": 1,
    }
    assert all(each.resource == f"nvidia.com/{each.name}" for each in classes.values())
    assert all(each.slices == int(each.name[4]) for each in classes.values())


@pytest.mark.parametrize("text", [block for page in PAGES for block in page.blocks("toml")])
def test_the_classes_files_of_the_docs_are_valid(text: str) -> None:
    assert from_toml(text, "classes.toml")


def test_the_profile_for_mps_and_the_device_class_are_valid() -> None:
    mps, claim_template, device_class = map(yaml.safe_load, NODES.blocks("yaml"))
    check(device_class, NEWEST)
    check(claim_template, NEWEST)
    assert device_class["spec"]["extendedResourceName"] in NODES.text.replace(
        NODES.blocks("yaml")[2], ""
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
    rights = {
        (row[0].strip("`"), verb.strip())
        for row in CLUSTER_SECURITY.tables("## Rights")[0]
        for verb in row[1].split(",")
    }
    (role,) = overlay("production").of("Role")
    assert rights == {(resource, verb) for _, resource, verb in granted(role)}


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
    trial, several, openshift, cloud = (yaml.safe_load(block) for block in page.blocks("yaml"))
    assert openshift.items() <= {**values("openshift"), "network": openshift["network"]}.items()
    assert values("openshift")["network"] == openshift["network"]
    assert chart(
        {**values("minimal"), **cloud, "jobs": {**cloud["jobs"], **values("minimal")["jobs"]}}
    )
    assert len(chart(trial).of("StatefulSet")) == 1
    assert len(chart({**values("minimal"), **several}).of("Deployment")) == 3
    (least, _) = page.blocks("sh")
    assert parse(succeed("helm", "template", *shlex.split(least)[2:]))


def test_values_in_the_docs_exist_in_the_chart() -> None:
    parts = "redis|jobs|network|flower|monitoring|image"
    names = {
        path
        for page in (*PAGES, Page("README.md"))
        for path in re.findall(rf"`((?:{parts})\.[\w.]+)`", page.text)
    }
    assert names
    for name in names:
        found: Any = yaml.safe_load((CHART / "values.yaml").read_text())
        for part in name.split("."):
            assert part in found, name
            found = found[part]
