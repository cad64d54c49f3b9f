"""The overlays have the names and settings that operators expect."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy.rendering import OVERLAYS, Refused, overlay, settings_of
from tests.deploy.tools import call

BASE = OVERLAYS.parent / "base"


def told(name: str, dispatcher: str) -> dict[str, str]:
    found = overlay(name)
    return settings_of(found, dict(found.pods())[dispatcher])


#: Nodes have no namespace.
CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding")


def test_what_operators_look_for_is_where_they_look() -> None:
    assert (BASE / "rbac" / "gpu-job-launcher-rbac.yaml").is_file()
    found = overlay("production")
    assert {each["metadata"]["name"] for each in found.of("Deployment")} == {
        *("gpu-dispatcher-t4", "gpu-dispatcher-mig", "gpu-flower")
    }
    kinds = {each["kind"] for each in found}
    assert kinds == {
        *(
            "Namespace",
            "ServiceAccount",
            "Role",
            "RoleBinding",
            *CLUSTER_WIDE,
            "ConfigMap",
            "Deployment",
            "Service",
            "NetworkPolicy",
        ),
        *("PodDisruptionBudget", "ServiceMonitor", "PrometheusRule"),
    }


def test_production_runs_jobs_on_sliced_t4_and_on_mig() -> None:
    t4, mig = told("production", "gpu-dispatcher-t4"), told("production", "gpu-dispatcher-mig")
    assert t4["GPU_EXECUTION_MODE"] == mig["GPU_EXECUTION_MODE"] == "k8s_job"
    assert (t4["T4_SHARED_SLOTS"], t4["T4_EXCLUSIVE_SLOTS"], t4["MIG_TOTAL_SLOTS"]) == (
        "8",
        "1",
        "0",
    )
    assert (mig["T4_SHARED_SLOTS"], mig["T4_EXCLUSIVE_SLOTS"], mig["MIG_TOTAL_SLOTS"]) == (
        "0",
        "0",
        "7",
    )
    assert mig["GPU_RESOURCE_NAME"] == "nvidia.com/mig-1g.5gb"
    assert "GPU_RESOURCE_NAME" not in t4


def test_nothing_of_development_asks_for_a_gpu_or_the_gpu_operator() -> None:
    text = yaml.safe_dump_all(overlay("dev"))
    assert "nvidia.com/gpu:" not in text and "nvidia.com/mig-" not in text
    assert {
        told("dev", name)["GPU_EXECUTION_MODE"]
        for name in ("gpu-dispatcher-t4", "gpu-dispatcher-mig")
    } == {"k8s_job"}


@pytest.mark.parametrize("name", ["dev", "production"])
def test_everything_of_an_overlay_is_in_its_namespace(name: str) -> None:
    wanted = {"dev": "mlops-saas-dev", "production": "mlops-saas"}[name]
    for each in overlay(name):
        if each["kind"] == "Namespace":
            assert each["metadata"]["name"] == wanted
            assert each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        else:
            wide = each["kind"] in CLUSTER_WIDE
            assert each["metadata"].get("namespace") == (None if wide else wanted)
    assert not overlay(name).of("Secret")


def test_a_changed_setting_renames_the_config_map_and_restarts_pods(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "mlops-saas"
    shutil.copytree(BASE.parent, folder)
    file = folder / "overlays" / "production" / "kustomization.yaml"
    file.write_text(file.read_text().replace("T4_SHARED_SLOTS=8", "T4_SHARED_SLOTS=16"))
    done = call("kubectl", "kustomize", str(file.parent))
    before, after = (
        {each["metadata"]["name"] for each in objects if each and each["kind"] == "ConfigMap"}
        for objects in (overlay("production"), yaml.safe_load_all(done.stdout))
    )
    assert [name.rpartition("-")[0] for name in before - after] == ["gpu-dispatcher-t4"]


def test_what_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(Refused, match="not a valid directory"):
        overlay("staging")
