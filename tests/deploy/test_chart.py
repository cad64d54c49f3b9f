"""The objects that the chart creates from values, and the values that it rejects."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml

from gpuqueue import __version__
from gpuqueue.launchers.kubernetes.manifest.template_file import load_pod_template
from tests.deploy.rendering import (
    CHART,
    SETS,
    Object,
    Refused,
    chart,
    chart_set,
    settings_of,
    values,
)
from tests.deploy.tools import call


def having(**changes: Any) -> Object:
    """Return the minimal values with changes: ``having(flower__enabled=True)``."""
    given = copy.deepcopy(values("minimal"))
    for path, value in changes.items():
        *folders, name = path.split("__")
        at = given
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = value
    return given


def dispatcher(**said: Any) -> list[Object]:
    return [{"name": "x", "t4": {"sharedSlots": 1}, **said}]


KEDA: Object = {"kind": "keda", "keda": {"address": "redis.example:6379"}}
BY_PROMETHEUS: Object = {"kind": "keda", "keda": {"trigger": "prometheus"}}
#: Problem → the values, and the message about them.
REFUSED: dict[str, tuple[Object, str]] = {
    "no redis": (
        having(redis={}),
        "redis has no address; set redis.existingSecret to a Secret with CELERY_BROKER_URL",
    ),
    "two addresses of redis": (
        having(redis__url="redis://r"),
        "redis has several addresses (redis.existingSecret, redis.url); keep one",
    ),
    "a built-in redis without a password": (
        having(redis={"builtin": {"enabled": True}}),
        "redis.builtin.password is invalid; set it to 16 or more letters",
    ),
    "a password that is no part of an address": (
        having(redis={"builtin": {"enabled": True, "password": "0123456789/@:0123456789"}}),
        "redis.builtin.password is invalid",
    ),
    "a directory of logs without a volume": (
        having(logSink={"address": "/logs"}),
        "logSink.address=/logs is a directory without a volume; set logSink.volume",
    ),
    "a volume without a directory": (
        having(logSink={"address": "s3://logs", "volume": {"emptyDir": {}}}),
        'logSink.volume is for a directory, and logSink.address="s3://logs" is none; set',
    ),
    "no image for jobs": (
        having(jobs__image=""),
        (
            "dispatchers[0] (t4) has no image for its jobs; set jobs.image, or image of each class"
            " in classes"
        ),
    ),
    "the tag latest": (
        having(image__tag="latest"),
        "image.tag=latest does not identify a version; name one",
    ),
    "jobs of an image without a tag": (
        having(jobs__image="registry.example:5000/shop"),
        (
            "jobs.image=registry.example:5000/shop does not identify a version; use a digest, or a"
            " tag other than latest"
        ),
    ),
    "jobs of latest": (
        having(jobs__image="shop:latest"),
        "jobs.image=shop:latest does not identify a version",
    ),
    "no dispatchers": (having(dispatchers=[]), "dispatchers is empty; add one, with its slots"),
    "two dispatchers of one name": (
        having(dispatchers=dispatcher() + dispatcher()),
        "dispatchers[1] (x) has the name of another dispatcher; use unique names",
    ),
    "a dispatcher without slots": (
        having(dispatchers=[{"name": "x"}]),
        "dispatchers[0] (x) has no slots; set t4.sharedSlots",
    ),
    "slices of no MIG resource": (
        having(dispatchers=dispatcher(mig={"totalSlots": 7}, resourceName="nvidia.com/gpu")),
        (
            "dispatchers[0] (x): mig.totalSlots=7 needs a MIG resource, and"
            ' resourceName="nvidia.com/gpu" is not one;'
        ),
    ),
    "a MIG resource without slices": (
        having(dispatchers=dispatcher(resourceName="nvidia.com/mig-1g.5gb")),
        (
            "dispatchers[0] (x): resourceName=nvidia.com/mig-1g.5gb is a MIG resource without"
            " slots; set mig.totalSlots"
        ),
    ),
    "bounds of scaling the wrong way round": (
        having(
            dispatchers=dispatcher(autoscaling={"kind": "hpa", "minReplicas": 5, "maxReplicas": 2})
        ),
        "dispatchers[0] (x): autoscaling.minReplicas=5 is more than maxReplicas=2; swap them",
    ),
    "scaling by CPU without a request of it": (
        having(
            dispatchers=dispatcher(autoscaling={"kind": "hpa"}),
            dispatcherDefaults__resources__requests=None,
        ),
        (
            "dispatchers[0] (x): autoscaling.kind=hpa measures the use of the requested CPU; set"
            " resources.requests.cpu"
        ),
    ),
    "scaling by a redis without an address": (
        having(dispatchers=dispatcher(queues=["gpu.t4"], autoscaling={"kind": "keda"})),
        "dispatchers[0] (x): autoscaling.keda.address is not set; set it to the broker's host:port",
    ),
    "scaling without queues": (
        having(dispatchers=dispatcher(autoscaling=KEDA)),
        "dispatchers[0] (x): autoscaling by queue length needs queues; set queues",
    ),
    "scaling by a Prometheus without an address": (
        having(dispatchers=dispatcher(autoscaling=BY_PROMETHEUS)),
        (
            "dispatchers[0] (x): autoscaling.keda.serverAddress is not set; set it to the address"
            " of Prometheus"
        ),
    ),
    "scaling by series without labels": (
        having(dispatchers=dispatcher(autoscaling=BY_PROMETHEUS)),
        (
            "dispatchers[0] (x): autoscaling.keda.query is empty, and the default query needs the"
            " labels of a ServiceMonitor;"
        ),
    ),
    "alerts without series": (
        having(monitoring__rules__enabled=True),
        (
            "monitoring.rules.enabled without monitoring.serviceMonitor.enabled: alerts select"
            " their series by its labels"
        ),
    ),
    "a dashboard without labels": (
        having(monitoring={"dashboard": {"enabled": True, "labels": None}}),
        (
            "monitoring.dashboard.labels is empty, and the sidecar of Grafana selects dashboards by"
            " label; set e.g. grafana_dashboard"
        ),
    ),
    "an unknown threshold": (
        having(monitoring__rules__thresholds={"oldestWait": 1}),
        "at '/monitoring/rules/thresholds': additional properties 'oldestWait' not allowed",
    ),
    "a share of more than all": (
        having(monitoring__rules__thresholds={"apiErrorRatio": 10}),
        "at '/monitoring/rules/thresholds/apiErrorRatio': maximum: got 10, want 1",
    ),
    "scaling to none": (
        having(dispatchers=dispatcher(autoscaling={"kind": "hpa", "minReplicas": 0})),
        "at '/dispatchers/0/autoscaling/minReplicas': minimum: got 0, want 1",
    ),
    "flower without authentication": (
        having(flower__enabled=True),
        (
            "flower.enabled without authentication: any client could revoke jobs; set"
            " flower.auth.existingSecret"
        ),
    ),
    "flower with two ways in": (
        having(flower={"enabled": True, "auth": {"existingSecret": "a", "basic": "me:12345678"}}),
        "flower.auth has both existingSecret and basic; keep one",
    ),
    "flower with a short password": (
        having(flower={"enabled": True, "auth": {"basic": "me:1"}}),
        "flower.auth.basic is not user:password; use a password of 8 or more characters",
    ),
    "an ingress to nowhere": (
        having(flower__ingress__enabled=True),
        "flower.ingress.enabled without Flower; set flower.enabled",
    ),
    "an ingress without a host": (
        having(
            flower={"enabled": True, "auth": {"existingSecret": "a"}, "ingress": {"enabled": True}}
        ),
        "flower.ingress.host is not set; set it to the public host name of Flower",
    ),
    "an empty quota": (
        having(quota__enabled=True),
        "quota.hard is empty; set e.g. requests.nvidia.com/gpu",
    ),
    "no service account": (
        having(serviceAccount__create=False),
        (
            "serviceAccount.create=false needs serviceAccount.name; set it to an existing service"
            " account"
        ),
    ),
    "a second container beside the executor": (
        having(jobs__podTemplate={"spec": {"containers": [{"name": "proxy", "image": "proxy:1"}]}}),
        (
            "jobs.podTemplate.spec.containers can contain only the container executor; use"
            " initContainers for others"
        ),
    ),
    "an unknown value": (
        having(replicaCount=2),
        "additional properties 'replicaCount' not allowed",
    ),
    "a value that a dispatcher has not": (
        having(dispatchers=dispatcher(slots=8)),
        "at '/dispatchers/0': additional properties 'slots' not allowed",
    ),
    "a dispatcher without a name": (
        having(dispatchers=[{"t4": {"sharedSlots": 1}}]),
        "missing property 'name'",
    ),
    "a name that is too long": (
        having(dispatchers=dispatcher(name="a" * 17)),
        "at '/dispatchers/0/name': 'aaaaaaaaaaaaaaaaa'",
    ),
    "words for a number": (
        having(dispatchers=dispatcher(t4={"sharedSlots": "eight"})),
        "at '/dispatchers/0/t4/sharedSlots': got string, want integer",
    ),
    "a queue that is none of ours": (
        having(dispatchers=dispatcher(queues=["celery"])),
        "at '/dispatchers/0/queues/0'",
    ),
    "a setting that there is not": (
        having(settings={"GPU_JOB_TTL": "1"}),
        "invalid propertyName 'GPU_JOB_TTL'",
    ),
    "a setting that another value sets": (
        having(settings={"T4_SHARED_SLOTS": "1"}),
        "invalid propertyName 'T4_SHARED_SLOTS'",
    ),
    "a credential as a setting": (
        having(settings={"CELERY_BROKER_URL": "redis://r"}),
        "invalid propertyName 'CELERY_BROKER_URL'",
    ),
    "an unknown level of logs": (
        having(logLevel="LOUD"),
        "at '/logLevel': value must be one of 'DEBUG'",
    ),
    "a digest that is none": (
        having(image__digest="sha256:1"),
        "at '/image/digest': 'sha256:1' does not match pattern",
    ),
    "a namespace of a class that is none": (
        having(jobs__classNamespaces=["Team"]),
        "at '/jobs/classNamespaces/0': 'Team' does not match pattern",
    ),
    "a peer that is none": (
        having(network__redis__to=[{"host": "redis"}]),
        "at '/network/redis/to/0': additional properties 'host' not allowed",
    ),
    "two of Flower": (having(flower__replicas=2), "at '/flower/replicas': maximum: got 2, want 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_chart_refuses(case: str) -> None:
    given, said = REFUSED[case]
    with pytest.raises(Refused) as refused:
        chart(given)
    assert said in str(refused.value)


def test_all_wrong_values_are_reported_at_once_without_a_password() -> None:
    given = having(
        jobs__image="",
        redis={"url": "redis://r", "builtin": {"enabled": True, "password": "too-short"}},
    )
    with pytest.raises(Refused) as refused:
        chart(given)
    assert str(refused.value).count("\n- ") == 3
    assert "too-short" not in str(refused.value)


# -- what is made ----------------------------------------------------------------------------------


def test_a_dispatcher_is_a_deployment_that_serves_its_queues() -> None:
    found = chart(having(dispatchers=dispatcher(queues=["gpu.t4.shared"], replicas=3)))
    deployment = found.one("Deployment", "gpu-gpuqueue-dispatcher-x")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["spec"]["replicas"] == 3
    assert container["command"] == ["celery", "-A", "gpuqueue", "worker"]
    assert container["args"] == [
        "--pool=threads",
        "--hostname=x@%h",
        "--loglevel=INFO",
        "--queues=gpu.t4.shared",
    ]
    assert container["image"] == f"registry.example/gpuqueue-dispatcher:{__version__}"


def test_a_dispatcher_without_queues_serves_all_of_its_classes() -> None:
    (container,) = dict(chart(having(dispatchers=dispatcher())).pods())[
        "gpu-gpuqueue-dispatcher-x"
    ]["spec"]["containers"]
    assert not [word for word in container["args"] if word.startswith("--queues")]


def test_a_dispatcher_takes_the_defaults_unless_it_sets_a_value_even_0() -> None:
    given = having(
        dispatcherDefaults={"replicas": 5, "t4": {"sharedSlots": 4, "exclusiveSlots": 2}}
    )
    given["dispatchers"] = [{"name": "a"}, {"name": "b", "replicas": 0, "t4": {"sharedSlots": 0}}]
    found = chart(given)
    replicas = [each["spec"]["replicas"] for each in found.of("Deployment")]
    assert replicas == [5, 0]
    slots = [settings_of(found, pod) for _, pod in found.pods()]
    assert [(each["T4_SHARED_SLOTS"], each["T4_EXCLUSIVE_SLOTS"]) for each in slots] == [
        ("4", "2"),
        ("0", "2"),
    ]


def test_scaled_dispatchers_have_no_fixed_number() -> None:
    found = chart_set("everything")
    assert not any(
        "replicas" in each["spec"]
        for each in found.of("Deployment")
        if "dispatcher" in each["metadata"]["name"]
    )
    targets = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in found.of("HorizontalPodAutoscaler", "ScaledObject")
    }
    names = {each["metadata"]["name"] for each in found.of("Deployment")}
    assert targets == names - {"gpu-gpuqueue-flower"}


def test_keda_looks_at_the_list_of_every_priority_of_every_queue() -> None:
    scaled = chart_set("everything").one("ScaledObject", "gpu-gpuqueue-dispatcher-t4")
    lists = [each["metadata"]["listName"] for each in scaled["spec"]["triggers"]]
    queues = ("gpu.t4.shared", "gpu.t4.exclusive")
    assert lists == [
        f"{queue}{step}" for queue in queues for step in ("", "\x06\x163", "\x06\x166", "\x06\x169")
    ]
    assert lists[:4] == names_on_redis("gpu.t4.shared")
    assert all(
        isinstance(value, str)
        for each in scaled["spec"]["triggers"]
        for value in each["metadata"].values()
    )
    assert scaled["spec"]["minReplicaCount"] >= 1


def names_on_redis(queue: str) -> list[str]:
    """Return the Redis lists of a queue in the transport of Celery."""
    from kombu.transport.redis import Channel

    channel = Channel.__new__(Channel)
    return [channel._q_for_pri(queue, priority) for priority in channel.priority_steps]


def test_changed_settings_make_new_pods_and_others_do_not() -> None:
    def annotations(given: Object) -> dict[str, Object]:
        return {name: pod["metadata"].get("annotations", {}) for name, pod in chart(given).pods()}

    two = dispatcher() + dispatcher(name="y")
    before = annotations(having(dispatchers=two))
    assert (
        annotations(having(dispatchers=two, quota={"enabled": True, "hard": {"pods": "9"}}))
        == before
    )
    common = annotations(having(dispatchers=two, settings={"GPU_JOB_TTL_SECONDS": "1"}))
    assert all(common[name] != before[name] for name in before)
    one = annotations(
        having(dispatchers=[*dispatcher(), {**two[1], "settings": {"GPU_JOB_TTL_SECONDS": "1"}}])
    )
    assert [name for name in before if one[name] != before[name]] == ["gpu-gpuqueue-dispatcher-y"]


@pytest.mark.parametrize("name", SETS)
def test_the_pod_template_is_one_that_dispatchers_take(name: str, tmp_path: Any) -> None:
    (text,) = [
        each["data"]["pod-template.yaml"]
        for each in chart_set(name).of("ConfigMap")
        if "pod-template.yaml" in each["data"]
    ]
    file = tmp_path / "pod-template.yaml"
    file.write_text(text)
    (container,) = load_pod_template(file).spec["containers"]
    assert container["securityContext"] == {"readOnlyRootFilesystem": True}
    assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_the_operators_pod_template_is_laid_over_ours() -> None:
    found = yaml.safe_load(
        chart_set("everything").one("ConfigMap", "gpu-gpuqueue-pod-template")["data"][
            "pod-template.yaml"
        ]
    )
    spec = found["spec"]
    assert found["metadata"] == {
        "labels": {
            "team": "vision",
            "example/cost-center": "4711",
            "app.kubernetes.io/part-of": "vision",
        }
    }
    assert spec["priorityClassName"] == "gpu-batch"
    assert spec["serviceAccountName"] == "gpu-gpuqueue-executor"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert [each["name"] for each in spec["volumes"]] == ["tmp", "redis-ca", "data"]
    (container,) = spec["containers"]
    assert [each["mountPath"] for each in container["volumeMounts"]] == [
        "/tmp",
        "/etc/gpuqueue/redis-ca",
        "/data",
    ]
    assert [each["name"] for each in container["env"]] == ["HOME", "TORCH_HOME"]


def test_without_anything_for_pods_the_template_is_empty_and_taken(tmp_path: Any) -> None:
    found = chart(having(jobs__readOnlyRootFilesystem=False, jobs__serviceAccount=False))
    file = tmp_path / "pod-template.yaml"
    file.write_text(
        found.one("ConfigMap", "gpu-gpuqueue-pod-template")["data"]["pod-template.yaml"]
    )
    assert load_pod_template(file).spec == {}
    assert [each["metadata"]["name"] for each in found.of("ServiceAccount")] == [
        "gpu-gpuqueue-job-launcher"
    ]


def test_every_client_of_redis_has_its_certificate_authority() -> None:
    found = chart_set("everything")
    for name, pod in found.pods():
        (container,) = pod["spec"]["containers"]
        assert {
            "name": "redis-ca",
            "mountPath": "/etc/gpuqueue/redis-ca",
            "readOnly": True,
        } in container["volumeMounts"], name


def test_jobs_of_another_namespace_have_all_that_is_theirs_there() -> None:
    found = chart_set("everything")
    there = {
        (each["kind"], each["metadata"]["name"])
        for each in found
        if each["metadata"].get("namespace") == "gpu-jobs"
    }
    assert there == {
        ("Role", "gpu-gpuqueue-job-launcher"),
        ("RoleBinding", "gpu-gpuqueue-job-launcher"),
        ("ServiceAccount", "gpu-gpuqueue-executor"),
        ("NetworkPolicy", "gpu-gpuqueue-executors"),
        ("NetworkPolicy", "gpu-gpuqueue-containers"),
        ("ResourceQuota", "gpu-gpuqueue-jobs"),
    }
    (subject,) = found.one("RoleBinding", "gpu-gpuqueue-job-launcher")["subjects"]
    assert (subject["name"], subject["namespace"]) == ("gpu-gpuqueue-job-launcher", "mlops-saas")
    assert (
        found.one("ConfigMap", "gpu-gpuqueue-settings")["data"]["GPU_JOB_NAMESPACE"] == "gpu-jobs"
    )


def test_each_namespace_of_a_class_has_what_the_namespace_of_the_jobs_has() -> None:
    classes = '[classes.a]\nshared_slots = 1\nnamespace = "team-a"\n'
    given = having(
        redis={"url": "redis://r:6379/0"},
        jobs__classNamespaces=["team-a", "mlops-saas"],
        jobs__serviceAccount=True,
        network__enabled=True,
        dispatchers=[{"name": "all", "classes": classes}],
    )
    found = chart(given)

    there = {
        (each["kind"], each["metadata"]["name"].removeprefix("gpu-gpuqueue-")): each
        for each in found
        if each["metadata"].get("namespace") == "team-a"
    }
    assert sorted(there) == [
        ("NetworkPolicy", "containers"),
        ("NetworkPolicy", "executors"),
        ("Role", "job-launcher"),
        ("RoleBinding", "job-launcher"),
        ("Secret", "redis"),
        ("ServiceAccount", "executor"),
    ]
    for (kind, name), each in there.items():
        moved = {**each, "metadata": {**each["metadata"], "namespace": "mlops-saas"}}
        assert found.one(kind, f"gpu-gpuqueue-{name}", "mlops-saas") == moved
    with pytest.raises(Refused, match='namespace="team-a", where dispatchers get no rights'):
        chart({**given, "jobs": {**given["jobs"], "classNamespaces": []}})


def test_a_builtin_redis_takes_executors_of_every_namespace() -> None:
    builtin = {"builtin": {"enabled": True, "password": "a" * 16}}
    found = chart(having(redis=builtin, jobs__classNamespaces=["team-a"], network__enabled=True))
    policy = found.one("NetworkPolicy", "gpu-gpuqueue-redis")
    peers = policy["spec"]["ingress"][0]["from"]
    spaces = [
        each["namespaceSelector"]["matchLabels"] for each in peers if "namespaceSelector" in each
    ]
    assert spaces == [{"kubernetes.io/metadata.name": each} for each in ("mlops-saas", "team-a")]


def test_a_secret_from_values_is_in_both_namespaces() -> None:
    found = chart(having(redis={"url": "redis://r:6379/0"}, jobs__namespace="gpu-jobs"))
    for namespace in ("mlops-saas", "gpu-jobs"):
        assert found.one("Secret", "gpu-gpuqueue-redis", namespace)["stringData"] == {
            "CELERY_BROKER_URL": "redis://r:6379/0"
        }
    assert (
        found.one("ConfigMap", "gpu-gpuqueue-settings")["data"]["GPU_SECRET_NAME"]
        == "gpu-gpuqueue-redis"
    )


def test_the_built_in_redis_evicts_nothing_and_is_labelled_for_trials() -> None:
    found = chart_set("trial")
    redis = found.one("StatefulSet", "gpu-gpuqueue-redis")
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert "volumeClaimTemplates" not in redis["spec"]
    url = found.one("Secret", "gpu-gpuqueue-redis")["stringData"]["CELERY_BROKER_URL"]
    assert url == "redis://:not-a-real-password@gpu-gpuqueue-redis.mlops-saas.svc:6379/0"
    assert "FOR TRIALS" in notes(values("trial"))
    assert "FOR TRIALS" not in notes(values("production"))


def test_the_built_in_redis_stores_data_in_a_volume_of_the_given_size() -> None:
    given = copy.deepcopy(values("trial"))
    given["redis"]["builtin"] |= {"storage": "5Gi", "storageClass": "fast"}
    (claim,) = chart(given).one("StatefulSet", "gpu-gpuqueue-redis")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "5Gi"}}
    assert claim["spec"]["storageClassName"] == "fast"


def test_flower_is_probed_under_its_prefix() -> None:
    found = chart_set("everything")
    (container,) = found.one("Deployment", "gpu-gpuqueue-flower")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["readinessProbe"]["httpGet"]["path"] == "/flower/healthcheck"
    (rule,) = found.one("Ingress", "gpu-gpuqueue-flower")["spec"]["rules"]
    assert rule["http"]["paths"][0]["path"] == "/flower"


def test_long_releases_and_dispatchers_have_names_that_kubernetes_takes() -> None:
    given = having(
        dispatchers=dispatcher(name="a" * 16),
        flower={"enabled": True, "auth": {"existingSecret": "a"}},
    )
    found = chart(given, release="r" * 53)
    assert all(len(each["metadata"]["name"]) <= 63 for each in found)


# -- notes -----------------------------------------------------------------------------------------


def notes(given: Object) -> str:
    done = call(
        "helm",
        "install",
        "gpu",
        str(CHART),
        "-n",
        "mlops-saas",
        "-f",
        "-",
        "--dry-run=client",
        text=json.dumps(given),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:\n")[2]


@pytest.mark.parametrize("name", SETS)
def test_the_notes_are_a_checklist_that_names_what_is_there(name: str) -> None:
    text = notes(values(name))
    assert text.count("[ ]") >= 6
    assert "<no value>" not in text and "%!" not in text
    for each in chart_set(name).of("Deployment"):
        if "dispatcher" in each["metadata"]["name"]:
            assert f"deployment/{each['metadata']['name']}" in text


def test_the_notes_list_the_alerts() -> None:
    given = having(monitoring__serviceMonitor__enabled=True)
    assert "To create alerts, set monitoring.rules.enabled=true" in notes(given)
    given["monitoring"]["rules"] = {"enabled": True, "thresholds": {"oldestWaitSeconds": 900}}
    assert "a job that waits 900 s raises one" in notes(given)


def test_the_version_is_one_everywhere() -> None:
    found = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (found["version"], found["appVersion"]) == (__version__, __version__)
