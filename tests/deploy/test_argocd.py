"""The ArgoCD applications of production: versions, values and sync options."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from gpuqueue import __version__
from gpuqueue.launchers.kubernetes.manifest.names import (
    ATTEMPT_ROLE,
    CONTAINER_ROLE,
    FINISHER_ROLE,
    labels,
)
from gpuqueue.model.names import MIG_PROFILE
from gpuqueue.model.reasons import TRY_AGAIN, EndReason
from tests.deploy.rendering import APPLICATIONS, application, chart, overlay, settings_of, values
from tests.deploy.tools import ROOT
from tests.support.pages import Page

NAMES = sorted(path.stem for path in APPLICATIONS.glob("*.yaml"))


def helm(name: str) -> Any:
    return application(name)["spec"]["source"]["helm"]


@pytest.mark.parametrize("name", NAMES)
def test_an_application_has_the_name_of_its_release(name: str) -> None:
    """Where ArgoCD tracks objects by label, it replaces the instance of each object by the name of
    the application, and a ServiceMonitor that selects by the release finds no Service.
    """
    found = application(name)
    assert found["metadata"]["name"] == helm(name)["releaseName"]


def test_the_service_monitor_selects_the_service_as_argocd_labels_it() -> None:
    found = chart(values("production"))
    (service,) = [each for each in found.of("Service") if "dispatchers" in each["metadata"]["name"]]
    labels = service["metadata"]["labels"]
    tracked = {**labels, "app.kubernetes.io/instance": application("gpuqueue")["metadata"]["name"]}
    (monitor,) = found.of("ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= tracked.items()


def test_there_are_the_two_that_operators_know() -> None:
    assert NAMES == ["gpu-operator", "gpuqueue"]


def test_gpu_add_ons_are_for_production_alone() -> None:
    assert [path.name for path in (ROOT / "deploy" / "argocd").iterdir()] == ["apps-prod"]


@pytest.mark.parametrize("name", NAMES)
def test_an_application_is_one_of_argocd(name: str) -> None:
    found = application(name)
    assert (found["apiVersion"], found["kind"]) == ("argoproj.io/v1alpha1", "Application")
    assert found["metadata"]["namespace"] == "argocd"
    spec = found["spec"]
    assert spec.keys() - {"ignoreDifferences"} == {"project", "destination", "source", "syncPolicy"}
    assert spec["source"].keys() in (
        {"repoURL", "chart", "targetRevision", "helm"},
        {"repoURL", "path", "targetRevision", "helm"},
    )
    assert helm(name).keys() == {"releaseName", "valuesObject"}
    assert spec["syncPolicy"].keys() == {
        "automated",
        "managedNamespaceMetadata",
        "syncOptions",
        "retry",
    }
    # Custom resources of the Prometheus Operator must not keep the rest from being applied.
    assert {"CreateNamespace=true", "SkipDryRunOnMissingResource=true"} <= set(
        spec["syncPolicy"]["syncOptions"]
    )
    assert spec["syncPolicy"]["automated"] == {"prune": True, "selfHeal": True}


def test_gpus_are_there_before_what_asks_for_them() -> None:
    waves = {
        name: int(application(name)["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for name in NAMES
    }
    assert waves["gpu-operator"] < waves["gpuqueue"]


# -- the GPU Operator ------------------------------------------------------------------------------


def test_the_operator_is_of_one_version_from_its_own_repository() -> None:
    source = application("gpu-operator")["spec"]["source"]
    assert (source["repoURL"], source["chart"]) == (
        "https://helm.ngc.nvidia.com/nvidia",
        "gpu-operator",
    )
    assert source["targetRevision"] == "v26.7.0"


def test_the_operator_brings_driver_toolkit_plugin_figures_and_mig() -> None:
    given = helm("gpu-operator")["valuesObject"]
    for part in ("driver", "toolkit", "devicePlugin", "dcgmExporter", "migManager"):
        assert given[part]["enabled"] is True
    assert given["dcgmExporter"]["serviceMonitor"]["enabled"] is True
    assert given["operator"]["upgradeCRD"] is False
    assert given["mig"]["strategy"] == "mixed"


def test_the_time_slicing_profile_has_a_replica_for_each_shared_slot() -> None:
    config = helm("gpu-operator")["valuesObject"]["devicePlugin"]["config"]
    assert config["create"] is True and config["name"]
    assert config["default"] == "", "every GPU of the cluster would be shared"
    profile = yaml.safe_load(config["data"]["tesla-t4"])
    sharing = profile["sharing"]["timeSlicing"]
    assert profile["version"] == "v1"
    assert sharing["resources"] == [{"name": "nvidia.com/gpu", "replicas": 8}]
    assert sharing["failRequestsGreaterThanOne"] is True
    assert sharing["renameByDefault"] is False, "jobs ask for nvidia.com/gpu"
    found = overlay("production")
    told = settings_of(found, dict(found.pods())["gpu-dispatcher-t4"])
    assert told["T4_SHARED_SLOTS"] == "8"
    assert told["GPU_NODE_SELECTOR_VALUE"] in config["data"]


def test_the_layouts_that_the_mig_manager_generates_stay() -> None:
    """A ConfigMap of ours would replace the layouts of every node by those in it."""
    assert helm("gpu-operator")["valuesObject"]["migManager"] == {"enabled": True}


def test_the_slices_of_production_are_those_of_a_generated_layout() -> None:
    found = overlay("production")
    told = settings_of(found, dict(found.pods())["gpu-dispatcher-mig"])
    profile = told["GPU_RESOURCE_NAME"].removeprefix("nvidia.com/")
    assert MIG_PROFILE.match(profile)
    # all-1g.5gb of an A100 40GB has as many slices as docs/GPU.md says.
    (most,) = re.findall(r"A100 40GB \|.* 1g\.5gb × (\d)", Page("docs/GPU.md").text)
    assert (profile, told["MIG_TOTAL_SLOTS"]) == ("mig-1g.5gb", most)


def test_a_new_driver_waits_for_jobs_and_can_evict_what_remains() -> None:
    policy = helm("gpu-operator")["valuesObject"]["driver"]["upgradePolicy"]
    # Names of the chart v26.7.0. ClusterPolicy has podDeletion, which the chart ignores silently.
    assert policy.keys() == {
        *("autoUpgrade", "maxParallelUpgrades", "waitForCompletion", "gpuPodDeletion", "drain")
    }
    record: Any = {"id": "x", "gpu_class": "t4", "isolation": "shared"}
    key, _, value = policy["waitForCompletion"]["podSelector"].partition("=")
    for role in (ATTEMPT_ROLE, CONTAINER_ROLE, FINISHER_ROLE):
        assert labels("owner", role, record)[key] == value
    assert policy["waitForCompletion"]["timeoutSeconds"] > 3600
    # Pods of jobs have a /tmp, and a job whose pod is evicted gets a new attempt.
    assert "emptyDir" in pod_template()
    assert policy["gpuPodDeletion"]["deleteEmptyDir"] is True
    assert EndReason.EVICTED in TRY_AGAIN
    assert policy["drain"] == {"enable": False}


def pod_template() -> str:
    (found,) = [
        each["data"]["pod-template.yaml"]
        for each in overlay("production").of("ConfigMap")
        if "pod-template.yaml" in each["data"]
    ]
    return str(found)


def test_the_argocd_application_has_what_the_gpu_operator_needs() -> None:
    spec = application("gpu-operator")["spec"]
    assert spec["destination"]["namespace"] == "gpu-operator"
    policy = spec["syncPolicy"]
    assert {"ServerSideApply=true", "RespectIgnoreDifferences=true"} <= set(policy["syncOptions"])
    assert policy["managedNamespaceMetadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "privileged"
    }
    assert policy["retry"]["backoff"].keys() == {"duration", "factor", "maxDuration"}
    (ignored,) = spec["ignoreDifferences"]
    assert ignored == {
        "group": "nvidia.com",
        "kind": "ClusterPolicy",
        "jsonPointers": ["/spec/cdi/default"],
    }


# -- gpuqueue --------------------------------------------------------------------------------------


def test_gpuqueue_is_of_this_version_by_its_own_chart() -> None:
    source = application("gpuqueue")["spec"]["source"]
    assert source["targetRevision"] == f"v{__version__}"
    assert (ROOT / source["path"] / "Chart.yaml").is_file()
    # test_agreement.py compares its objects with the overlay: release and namespace are the same.
    assert source["helm"]["releaseName"] == "gpu"
    assert application("gpuqueue")["spec"]["destination"]["namespace"] == "mlops-saas"


def test_its_namespace_is_restricted() -> None:
    found = application("gpuqueue")["spec"]["syncPolicy"]["managedNamespaceMetadata"]["labels"]
    (namespace,) = overlay("production").of("Namespace")
    assert found.items() <= namespace["metadata"]["labels"].items()
