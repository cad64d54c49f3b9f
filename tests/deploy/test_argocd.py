"""The ArgoCD applications of production: versions, values and sync options."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gpuqueue import __version__
from gpuqueue.model.names import MIG_PROFILE
from tests.deploy.rendering import APPLICATIONS, application, overlay, settings_of
from tests.deploy.tools import ROOT

NAMES = sorted(path.stem for path in APPLICATIONS.glob("*.yaml"))


def helm(name: str) -> Any:
    return application(name)["spec"]["source"]["helm"]


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
    assert "CreateNamespace=true" in spec["syncPolicy"]["syncOptions"]
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
    values = helm("gpu-operator")["valuesObject"]
    for part in ("driver", "toolkit", "devicePlugin", "dcgmExporter", "migManager"):
        assert values[part]["enabled"] is True
    assert values["dcgmExporter"]["serviceMonitor"]["enabled"] is True
    assert values["operator"]["upgradeCRD"] is False
    assert values["mig"]["strategy"] == "mixed"


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


def test_the_layouts_of_mig_fit_on_a_gpu() -> None:
    config = helm("gpu-operator")["valuesObject"]["migManager"]["config"]
    parsed = yaml.safe_load(config["data"]["config.yaml"])
    assert parsed["version"] == "v1"
    assert config["default"] in parsed["mig-configs"]
    assert parsed["mig-configs"]["all-disabled"] == [{"devices": "all", "mig-enabled": False}]
    for name, layout in parsed["mig-configs"].items():
        for each in layout:
            profiles = each.get("mig-devices", {})
            assert bool(profiles) == each["mig-enabled"], name
            assert all(MIG_PROFILE.match(f"mig-{profile}") for profile in profiles)
            assert sum(int(profile[0]) * count for profile, count in profiles.items()) <= 7, name


def test_the_slices_of_production_are_those_of_a_layout() -> None:
    config = yaml.safe_load(
        helm("gpu-operator")["valuesObject"]["migManager"]["config"]["data"]["config.yaml"]
    )
    found = overlay("production")
    told = settings_of(found, dict(found.pods())["gpu-dispatcher-mig"])
    profile = told["GPU_RESOURCE_NAME"].removeprefix("nvidia.com/mig-")
    (layout,) = config["mig-configs"][f"all-{profile}"]
    assert layout["mig-devices"] == {profile: int(told["MIG_TOTAL_SLOTS"])}


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
