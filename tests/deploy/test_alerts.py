"""The alerts: Prometheus accepts them, each fires and stays silent when it should, and the docs
explain each.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuqueue.model.reasons import TRY_AGAIN
from tests.deploy import alerts
from tests.deploy.metrics import misread, named_in
from tests.deploy.rendering import CHART, Object, chart, overlay, values
from tests.deploy.tools import call
from tests.support.pages import Page

ALERTS = Page("docs/operate/alerts.md")
CASES: dict[str, list[Object]] = yaml.safe_load(
    (Path(__file__).parent / "alert_cases.yaml").read_text()
)
_OURS = 'namespace="mlops-saas",job="gpu-dispatchers"'
#: Targets with the labels of a ServiceMonitor.
TARGETS = {
    "<a>": (
        f'{_OURS},gpuqueue_io_dispatcher="t4",instance="10.0.0.1:9464",pod="gpu-dispatcher-t4-a"'
    ),
    "<b>": (
        f'{_OURS},gpuqueue_io_dispatcher="t4",instance="10.0.0.2:9464",pod="gpu-dispatcher-t4-b"'
    ),
    "<c>": (
        f'{_OURS},gpuqueue_io_dispatcher="t4",instance="10.0.0.4:9464",pod="gpu-dispatcher-t4-c"'
    ),
    "<m>": (
        f'{_OURS},gpuqueue_io_dispatcher="mig",instance="10.0.0.3:9464",pod="gpu-dispatcher-mig-m"'
    ),
    "<other>": (
        'namespace="elsewhere",job="gpu-dispatchers",gpuqueue_io_dispatcher="t4",instance="10.0.0.9:9464",pod="x"'
    ),
}


def rules() -> list[Object]:
    (group,) = overlay("production").one("PrometheusRule", "gpu-alerts")["spec"]["groups"]
    found: list[Object] = group["rules"]
    return found


RULES = {each["alert"]: each for each in rules()}


def labels_of(text: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', text))


def pair(label: tuple[str, str]) -> str:
    return f'{label[0]}="{label[1]}"'


def written(alert: str, case: Object) -> Object:
    """Return a case in the format of promtool. The series ``ALERTS`` contains firing alerts:
    exactly these, with exactly these labels.
    """
    series = case["series"].items()
    for target, labels in TARGETS.items():
        series = [(name.replace(target, labels), said) for name, said in series]
    firing: list[dict[str, str]] = []
    if "fires" in case:
        said = case["fires"]["labels"]
        (own,) = [labels_of(TARGETS[said])] if isinstance(said, str) else [said]
        firing = [{"alertname": alert, "alertstate": "firing", **RULES[alert]["labels"], **own}]
    samples = [
        {"labels": f"ALERTS{{{','.join(map(pair, each.items()))}}}", "value": 1} for each in firing
    ]
    asked = {"expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}', "exp_samples": samples}
    times = [case["fires"]["at"]] if firing else case["silent"]
    return {
        "interval": "30s",
        "input_series": [{"series": name, "values": said} for name, said in series],
        "promql_expr_test": [{**asked, "eval_time": time} for time in times],
    }


def play(folder: Path, tests: list[Object], alert: str = "") -> str:
    """Run tests with promtool on all alerts of production or on one; return its complaints."""
    played = [each for each in rules() if alert in ("", each["alert"])]
    (folder / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "gpuqueue", "rules": played}]})
    )
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(document))
    done = call("promtool", "test", "rules", str(folder / "tests.yaml"))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_prometheus_takes_the_alerts(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "gpuqueue", "rules": rules()}]}))
    done = call("promtool", "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(rules())} rules found" in done.stdout


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_is_silent_when_it_should_be(
    alert: str, tmp_path: Path
) -> None:
    assert play(tmp_path, [written(alert, case) for case in CASES[alert]], alert) == ""


def test_promtool_reports_an_alert_that_wrongly_fires_or_stays_silent(tmp_path: Path) -> None:
    fires, silent, *_ = (written("GpuqueueNoLeader", case) for case in CASES["GpuqueueNoLeader"])
    (one,), (other, *_) = fires["promql_expr_test"], silent["promql_expr_test"]
    one["exp_samples"], other["exp_samples"] = other["exp_samples"], one["exp_samples"]
    assert "FAILED" in play(tmp_path, [fires])
    assert "FAILED" in play(tmp_path, [silent])


def test_every_alert_has_cases_that_fire_and_cases_that_do_not() -> None:
    assert set(CASES) == set(RULES)
    for alert, cases in CASES.items():
        assert any("fires" in case for case in cases), alert
        assert any("silent" in case for case in cases), alert
        assert all(case["says"] for case in cases)


# -- a healthy cluster -----------------------------------------------------------------------------


def test_a_healthy_cluster_stays_silent_also_when_the_leader_changes(tmp_path: Path) -> None:
    """Two dispatchers report the same values of the queue, one is replaced, the lead changes, and
    jobs come and go for two hours.
    """
    length, gone, new = 240, 90, 92
    shared = 'gpu_class="t4",isolation="shared"'
    both = {
        'gpuqueue_state_up{}': "1+0x",
        'gpuqueue_slots{gpu_class="t4",isolation="shared"}': "8+0x",
        'gpuqueue_slots{gpu_class="t4",isolation="exclusive"}': "1+0x",
        'gpuqueue_waiting_jobs{gpu_class="t4",isolation="shared"}': "40+0x",
        'gpuqueue_running_jobs{gpu_class="t4",isolation="shared"}': "8+0x",
        'gpuqueue_running_jobs{gpu_class="t4",isolation="exclusive"}': "0+0x",
        'gpuqueue_oldest_wait_seconds{gpu_class="t4",isolation="shared"}': "900+0x",
        'gpuqueue_finishing_jobs{gpu_class="t4"}': "0+0x",
        'gpuqueue_untaken_messages{queue="gpu.t4.shared"}': "0+0x",
        f'gpuqueue_jobs_ended_total{{{shared},reason="SUCCEEDED"}}': "1000+4x",
        f'gpuqueue_jobs_ended_total{{{shared},reason="EVICTED"}}': "9+0x",
        f'gpuqueue_attempts_repeated_total{{{shared},reason="EVICTED"}}': "40+0x",
        'gpuqueue_kubernetes_requests_total{request="create job",code="201"}': "0+4x",
        'gpuqueue_build_info{version="0.1.0"}': "1+0x",
        'gpuqueue_watcher_blind{}': "0+0x",
        'up{}': "1+0x",
    }  # fmt: skip

    def series(name: str, target: str, said: str) -> dict[str, str]:
        metric, _, labels = name.partition("{")
        return {
            "series": f"{metric}{{{TARGETS[target]},{labels}".replace(",}", "}"),
            "values": said,
        }

    played = []
    for name, said in both.items():
        played += [
            series(name, "<a>", f"{said}{gone} stale"),
            series(name, "<b>", f"{said}{length}"),
        ]
        played.append(series(name, "<c>", f"_x{new} {said}{length - new}"))
    turn = "gpuqueue_watcher_last_turn_timestamp_seconds{}"
    played += [
        series(turn, "<a>", f"1+30x{gone} stale"),
        series(turn, "<b>", f"1+30x{length}"),
        series(turn, "<c>", f"_x{new} {30 * new}+30x{length - new}"),
        series("up{}", "<m>", f"1+0x{length}"),
        series("gpuqueue_watcher_leads{}", "<a>", f"1+0x{gone} stale"),
        series("gpuqueue_watcher_leads{}", "<b>", f"0+0x{gone} 1+0x{length - gone}"),
        series("gpuqueue_watcher_leads{}", "<c>", f"_x{new} 0+0x{length - new}"),
    ]
    expected = {"expr": 'ALERTS{alertstate="firing"}', "exp_samples": []}
    times = ("10m", "44m", "46m", "48m", "60m", "90m", "119m")
    asked = [{**expected, "eval_time": time} for time in times]
    assert (
        play(tmp_path, [{"interval": "30s", "input_series": played, "promql_expr_test": asked}])
        == ""
    )


# -- what they say ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", rules(), ids=[f"{each['alert']}-{number}" for number, each in enumerate(rules())]
)
def test_an_alert_has_summary_remedy_and_a_link_to_its_runbook(rule: Object) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert len(rule["annotations"]["description"]) > 80
    page, _, section = rule["annotations"]["runbook_url"].partition("#")
    # A relative address leads nowhere from Alertmanager.
    assert page == "https://docs.example/gpuqueue/operate/alerts/"
    assert section == rule["alert"].lower()
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    # An aggregation keeps only the labels that it groups by.
    kept = re.match(r"(?:max|sum|count) by \(([\w, ]+)\)", rule["expr"])
    if kept:
        assert used <= set(kept[1].replace(" ", "").split(",")), used
    else:
        assert used <= {"pod"}, used


def test_the_docs_have_a_section_for_every_alert_and_for_no_other() -> None:
    sections = re.findall(r"^## (Gpuqueue\w+)$", ALERTS.text, re.MULTILINE)
    assert sections == sorted(sections, key=list(RULES).index)
    assert set(sections) == set(RULES)
    for each in sections:
        text = ALERTS.section(f"## {each}")
        assert f"`{RULES[each]['labels']['severity']}`" in text, each


def test_alerts_query_existing_metrics_and_labels() -> None:
    for each in rules():
        assert misread(each["expr"]) == set(), each["alert"]
    assert len({name for each in rules() for name in named_in(each["expr"])}) > 12


def test_alerts_query_only_metrics_of_this_release() -> None:
    for each in rules():
        for metric, said in re.findall(r"\b(up|gpuqueue_\w+)\{([^}]*)", each["expr"]):
            if metric != "gpuqueue_io_dispatcher":
                assert said.strip().startswith(_OURS), (each["alert"], metric)
        assert not re.search(
            r"gpuqueue_[a-z_]+(_seconds|_total|_jobs|_up|_leads|_blind)\b(?!\{)", each["expr"]
        ), each["alert"]


def test_the_alert_on_lost_jobs_covers_the_reasons_for_new_attempts() -> None:
    asked = re.findall(r'reason=~"([A-Z_|]+)"', RULES["GpuqueueJobsLost"]["expr"])
    assert asked and all(set(each.split("|")) == set(TRY_AGAIN) for each in asked)


# -- how they are made -----------------------------------------------------------------------------


def test_the_alerts_of_the_overlay_are_the_generated_ones() -> None:
    assert alerts.FILE.read_text() == alerts.text(), "run: python -m tests.deploy.alerts"


def test_thresholds_and_labels_come_from_values() -> None:
    given: Any = values("production")
    thresholds = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["rules"][
        "thresholds"
    ]
    chosen = {
        name: 0.7 if name == "apiErrorRatio" else 7000 + number
        for number, name in enumerate(thresholds)
    }
    given["monitoring"]["rules"] |= {
        "thresholds": chosen,
        "labels": {"release": "prometheus"},
        "alertLabels": {"team": "gpu"},
        "docsUrl": "https://docs.example/GPU",
    }
    made = chart(given).one("PrometheusRule", "gpu-alerts")
    assert made["metadata"]["labels"]["release"] == "prometheus"
    (group,) = made["spec"]["groups"]
    text = " ".join(each["expr"] for each in group["rules"])
    assert all(re.search(rf"> {value}(\s|$)", text) for value in chosen.values())
    assert "<" not in re.sub(r"< max", "", text), "a threshold without a value"
    assert {each["labels"]["team"] for each in group["rules"]} == {"gpu"}
    assert (
        group["rules"][0]["annotations"]["runbook_url"]
        == "https://docs.example/GPU#gpuqueuedispatcherabsent"
    )


def test_without_an_address_of_the_docs_alerts_have_no_link() -> None:
    given: Any = values("production")
    del given["monitoring"]["rules"]["docsUrl"]
    (group,) = chart(given).one("PrometheusRule", "gpu-alerts")["spec"]["groups"]
    assert all(each["annotations"].keys() == {"summary", "description"} for each in group["rules"])


def test_a_dispatcher_with_zero_replicas_raises_no_alert() -> None:
    given: Any = values("production")
    given["dispatchers"][1]["replicas"] = 0
    made = chart(given).one("PrometheusRule", "gpu-alerts")["spec"]["groups"][0]["rules"]
    assert [
        each["labels"]["dispatcher"] for each in made if each["alert"] == "GpuqueueDispatcherAbsent"
    ] == ["t4"]
