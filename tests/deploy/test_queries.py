"""The queries of Grafana, KEDA and the docs: Prometheus accepts them, and their metrics exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.metrics.dispatcher import DispatcherCollector
from gpuqueue.dispatcher.metrics.queue import QueueCollector
from gpuqueue.launchers.kubernetes.manifest import names
from gpuqueue.telemetry import OWN
from tests.deploy.metrics import METRICS, OF_PODS, misread, named_in
from tests.deploy.rendering import CHART, Object, application, chart, chart_set, values
from tests.deploy.tools import ROOT, call
from tests.support.every_metric import Measuring, Watcher
from tests.support.pages import Page

BOARD: Object = json.loads((CHART / "files" / "dashboard.json").read_text())
ROWS: list[Object] = [each for each in BOARD["panels"] if each["type"] == "row"]
#: The panels of the queue, and those of the GPUs of its jobs in a row below them.
PANELS: list[Object] = [
    each
    for each in BOARD["panels"]
    if each["type"] != "row" and each["gridPos"]["y"] < ROWS[0]["gridPos"]["y"]
]
GPUS: list[Object] = [each for each in BOARD["panels"] if each not in [*ROWS, *PANELS]]
#: Values that Grafana substitutes for its variables.
CHOSEN = {
    "$namespace": "mlops-saas",
    "$job": "gpu-dispatchers",
    "$__rate_interval": "2m",
    "$owner": ".+",
}
TOLD = 'namespace="mlops-saas",job="gpu-dispatchers"'


def asked(panel: Object) -> list[str]:
    found = [str(each["expr"]) for each in panel["targets"]]
    for name, text in CHOSEN.items():
        found = [each.replace(name, text) for each in found]
    return found


def parsed(expressions: list[str], folder: Path) -> None:
    """Parse the queries with Prometheus."""
    recorded = [
        {"record": f"asked:{number}", "expr": each} for number, each in enumerate(expressions)
    ]
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": recorded}]}))
    done = call("promtool", "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(expressions)} rules found" in done.stdout


# -- what they are asked of ------------------------------------------------------------------------


def test_metrics_pass_the_checks_of_prometheus() -> None:
    """Prometheus checks names, types, units and help texts."""
    registry = CollectorRegistry()
    # Doubles of what the collectors read.
    measures: Any = Measuring()
    watcher: Any = Watcher()
    for each in (
        *OWN,
        QueueCollector(measures, {"t4": GpuClass("t4")}, dict, int),
        DispatcherCollector(watcher, "1"),
    ):
        registry.register(each)
    done = call("promtool", "check", "metrics", text=generate_latest(registry).decode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_metric_or_a_label_that_there_is_not_is_seen() -> None:
    assert misread('max by (gpu_class) (gpuqueue_slots{namespace="x"}) > 0') == set()
    assert misread('max by (class) (gpuqueue_slot{queue="x"}) > 0') == {
        "class",
        "gpuqueue_slot",
        "queue",
    }


# -- the dashboard ---------------------------------------------------------------------------------


def test_every_expression_of_the_dashboard_is_one_of_prometheus(tmp_path: Path) -> None:
    parsed([each for panel in [*PANELS, *GPUS] for each in asked(panel)], tmp_path)


@pytest.mark.parametrize("panel", PANELS, ids=[each["title"] for each in PANELS])
def test_a_panel_queries_existing_metrics_of_the_chosen_release(
    panel: Object,
) -> None:
    assert panel["targets"] and panel["description"]
    for each in asked(panel):
        assert "$" not in each
        assert named_in(each) and misread(each) == set()
        assert each.count(TOLD) == len(re.findall("gpuqueue_[a-z_]+{", each))


def test_metrics_that_every_dispatcher_repeats_are_never_summed() -> None:
    alone = (
        "launches_total",
        "kubernetes_requests_total",
        "watcher_leads",
        "watcher_blind",
        "state_up",
    )
    for panel in PANELS:
        for each in asked(panel):
            (metric,) = named_in(each)
            if not metric.endswith(alone):
                aggregated = re.search(
                    r"(\w+) by \([\w, ]+\) \((?:rate\(|increase\()?" + metric, each
                )
                assert aggregated and aggregated[1] == "max", each


def test_panels_lie_beside_one_another_on_one_page_and_fill_it() -> None:
    cells = [
        (at["x"] + x, at["y"] + y)
        for at in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(at["w"])
        for y in range(at["h"])
    ]
    assert len(cells) == len(set(cells)) == 24 * (max(y for _, y in cells) + 1)
    assert max(y for _, y in cells) < 40
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.parametrize("panel", GPUS, ids=[each["title"] for each in GPUS])
def test_a_panel_of_gpus_queries_the_pods_of_an_owner_alone(panel: Object) -> None:
    assert panel["description"]
    for each in asked(panel):
        assert "$" not in each
        assert misread(each) == set()
        assert each.count('gpuqueue_io_owner=~".+"') == each.count("DCGM_")


def test_the_exporter_has_the_labels_that_the_dashboard_uses() -> None:
    exporter = application("gpu-operator")["spec"]["source"]["helm"]["valuesObject"]["dcgmExporter"]
    assert exporter["enablePodLabels"] is True
    patterns = [re.compile(each) for each in exporter["podLabelAllowlistRegex"]]
    record: Any = {"id": "x", "gpu_class": "t4", "isolation": "shared", "tenant": "a", "attempt": 1}
    made = names.labels("owner", names.ATTEMPT_ROLE, record)
    allowed = {each for each in made if any(pattern.search(each) for pattern in patterns)}
    assert allowed == set(OF_PODS.values()), "a label of each job would make series without end"
    used = {label for panel in GPUS for each in asked(panel) for label in OF_PODS if label in each}
    assert used == set(OF_PODS) - {"gpuqueue_io_isolation"}


def test_a_shared_gpu_counts_once_and_a_slice_by_itself(tmp_path: Path) -> None:
    pods = {
        # Three pods share one T4; another T4 is idle.
        'UUID="a",gpuqueue_io_class="t4",gpuqueue_io_tenant="x",pod="1"': 0.8,
        'UUID="a",gpuqueue_io_class="t4",gpuqueue_io_tenant="x",pod="2"': 0.8,
        'UUID="a",gpuqueue_io_class="t4",gpuqueue_io_tenant="y",pod="3"': 0.8,
        'UUID="b",gpuqueue_io_class="t4",gpuqueue_io_tenant="y",pod="4"': 0.2,
        'UUID="c",GPU_I_ID="1",gpuqueue_io_class="mig",pod="5"': 0.5,
        'UUID="c",GPU_I_ID="2",gpuqueue_io_class="mig",pod="6"': 0.1,
    }
    series = [
        {
            "series": f'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpuqueue_io_owner="o",{labels}}}',
            "values": f"{value}+0x10",
        }
        for labels, value in pods.items()
    ]
    # Not of a job.
    series.append({"series": 'DCGM_FI_PROF_GR_ENGINE_ACTIVE{UUID="d"}', "values": "1+0x10"})
    activity, tenants = (asked(panel)[0] for panel in GPUS[:2])
    wanted = {
        activity: {'{gpuqueue_io_class="t4"}': 0.5, '{gpuqueue_io_class="mig"}': 0.3},
        tenants: {'{gpuqueue_io_tenant="x"}': 0.8, '{gpuqueue_io_tenant="y"}': 1.0},
    }
    tests = [
        {
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [
                {
                    "expr": f"round({query}, 0.01)",
                    "eval_time": "2m",
                    "exp_samples": [
                        {"labels": labels, "value": value} for labels, value in values.items()
                    ],
                }
            ],
        }
        for query, values in wanted.items()
    ]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"tests": tests}))
    done = call("promtool", "test", "rules", str(tmp_path / "tests.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_variables_are_all_used_and_asked_for_by_metrics_that_there_are() -> None:
    variables = {each["name"]: each for each in BOARD["templating"]["list"]}
    text = json.dumps(BOARD)
    assert all(f"${name}" in text for name in variables)
    for each in variables.values():
        assert named_in(each["query"].replace(",", "{")) <= set(METRICS)


def test_the_config_map_has_the_dashboard_and_the_label_for_grafana() -> None:
    found = chart_set("everything").one("ConfigMap", "gpu-gpuqueue-dashboard")
    (text,) = found["data"].values()
    assert json.loads(text) == BOARD
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "GPU"}


# -- scaling ---------------------------------------------------------------------------------------


def scaled(**said: Any) -> Object:
    each = {"name": "x", "t4": {"sharedSlots": 1}, "autoscaling": {"kind": "keda"}, **said}
    each["autoscaling"]["keda"] = {
        "trigger": "prometheus",
        "serverAddress": "http://prometheus.monitoring:9090",
    }
    monitored = {"fullnameOverride": "gpu", "monitoring": {"serviceMonitor": {"enabled": True}}}
    given = {**values("minimal"), **monitored, "dispatchers": [each]}
    (trigger,) = chart(given).one("ScaledObject", "gpu-dispatcher-x")["spec"]["triggers"]
    found: Object = trigger["metadata"]
    return found


def test_scaling_counts_each_message_of_the_dispatchers_queues_once(
    tmp_path: Path,
) -> None:
    query = scaled(queues=["gpu.t4.shared", "gpu.t4.exclusive", "gpu.mig-1g.5gb.me"])["query"]
    assert (named_in(query), misread(query)) == ({"gpuqueue_untaken_messages"}, set())
    said = {
        "gpu.t4.shared": 40,
        "gpu.t4.exclusive": 2,
        "gpu.mig-1g.5gb.me": 7,
        "gpu.mig-1g.5gbxme": 1000,
        "gpu.a100": 500,
    }
    series = [
        untaken(f'{TOLD},instance="{at}"', queue, count)
        for queue, count in said.items()
        for at in ("a", "b")
    ]
    series.append(untaken('namespace="other",job="gpu-dispatchers"', "gpu.t4.shared", 9))
    assert evaluated(query, series, tmp_path) == ""
    others = [
        untaken(f'{TOLD},gpuqueue_io_dispatcher="{name}",pod="{pod}"', "q", 49)
        for name, pod in (("x", 1), ("x", 2), ("y", 3))
    ]
    assert evaluated(scaled()["query"], others, tmp_path) == ""


def untaken(target: str, queue: str, count: int) -> Object:
    return {
        "series": f'gpuqueue_untaken_messages{{{target},queue="{queue}"}}',
        "values": f"{count}+0x10",
    }


def evaluated(query: str, series: list[Object], folder: Path) -> str:
    """Return the complaints of promtool if the query does not return one number, 49."""
    asked = {"expr": query, "eval_time": "2m", "exp_samples": [{"labels": "{}", "value": 49}]}
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [asked]}
    (folder / "tests.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    done = call("promtool", "test", "rules", str(folder / "tests.yaml"))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_missing_metrics_never_scale_dispatchers_down() -> None:
    assert scaled()["ignoreNullValues"] == "false"


def test_a_query_of_the_operators_own_wins() -> None:
    given = yaml.safe_load((ROOT / "tests/deploy/values/everything.yaml").read_text())
    given["dispatchers"][2]["autoscaling"]["keda"]["query"] = "sum(mine)"
    (trigger,) = chart(given).one("ScaledObject", "gpu-gpuqueue-dispatcher-whole")["spec"][
        "triggers"
    ]
    assert trigger["metadata"]["query"] == "sum(mine)"


# -- docs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "docs/GPU.md",
        *sorted(str(each.relative_to(ROOT)) for each in ROOT.glob("docs/operate/*.md")),
        "charts/gpuqueue/README.md",
    ],
)
def test_metrics_that_the_docs_name_are_ones(path: str) -> None:
    bare = {re.sub("_(bucket|sum|count)$", "", name) for name in METRICS}
    assert set(re.findall(r"\bgpuqueue_[a-z_]+\b(?=[`{\[])", Page(path).text)) <= bare.union(
        METRICS
    )


def test_the_queries_of_the_docs_are_ones_of_prometheus(tmp_path: Path) -> None:
    (block,) = Page("docs/operate/metrics.md").blocks("promql")
    queries = [each for each in re.split(r"^#.*$", block, flags=re.MULTILINE) if each.strip()]
    assert len(queries) == block.count("#")
    parsed(queries, tmp_path)
    for each in queries:
        assert named_in(each) and misread(each) == set()


def test_the_query_of_the_charts_page_is_the_one_that_it_makes(tmp_path: Path) -> None:
    (shown,) = Page("charts/gpuqueue/README.md").blocks("promql")
    query = scaled(queues=["gpu.t4.shared", "gpu.t4.exclusive"])["query"]
    assert "".join(shown.split()) == "".join(query.split())
    parsed([shown], tmp_path)
