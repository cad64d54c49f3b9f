"""A double of a Kubernetes cluster: an API server over real HTTP, and nodes that run containers as
processes of this machine.

It says what a real Kubernetes 1.36 said (``tests/contract/recordings``;
``tests/contract/test_recordings.py`` compares them)::

    with Cluster(tmp_path, pace=0.05) as cluster:
        cluster.images["shop:1"] = Image(env={"PYTHONPATH": "…"}, cwd="…")
        cluster.secret("broker", {"CELERY_BROKER_URL": "redis://…"})
        ...                                         # a system under test, with cluster.kubeconfig
        pod = cluster.until(lambda: cluster.pod_of("gpu-job"))
        cluster.faults.oom_kill(pod["metadata"]["name"])

**The cluster.** ``Cluster(directory, pace=0.05, manifest_pace=1.0, latency=0, nodes=None,
images=None, namespace="default", port=0, bookmarks=60, processes=True, events=True)``. ``pace``
multiplies the delays of controllers, scheduler and kubelets, such as the 1.1 s from a container's
end to the pod's terminal phase, or the back-off of pulls. Seconds that a manifest states (grace,
deadlines, time to live) and that a fault is given are real ones, unless ``manifest_pace`` says
otherwise.

- ``kubeconfig`` (a path), ``url``, ``token``, ``control_url``; ``user(name, rules, namespaces,
  cluster_rules)`` gives a token that may do only that, ``kubeconfig_for(token)`` a kubeconfig with
  it.
- ``pods()``, ``jobs()``, ``pod(name)``, ``job(name)``, ``pod_of(job)``, ``events_of(name)``: copies
  of objects; ``pids(pod)``, ``log(pod)``; ``until(predicate, seconds)`` waits.
- ``create(resource, body)``, ``secret(name, data)``, ``config_map(name, data)``,
  ``add_namespace(name, labels)``, ``add_node(Node(…))``.
- ``images``: name → :class:`Image`; what is not there cannot be pulled.
- ``requests``: ``requests["create", "jobs"].count``, ``.bytes_in``, ``.bytes_out``, ``.codes``;
  ``requests.latest``; ``requests.clear()``.
- ``preload(jobs)``: Jobs with pods that run already, for benchmarks.

**Containers.** The first process gets a clean environment: ``PATH`` (this interpreter's folder
first), ``HOME``, ``HOSTNAME``, the image's, then the manifest's. When it ends, everything it
started is killed. There is no mount namespace: the path of the termination message is replaced in
command, arguments and environment by that of a file of the container's own. With
``processes=False``, or with the annotation ``double.gpuqueue.io/seconds``, a container is only a
timer (:mod:`tests.doubles.kubernetes.nodes.scripted`).

**Faults**, as methods of ``cluster.faults`` (:class:`tests.doubles.kubernetes.faults.Faults`) or
over HTTP (``POST <control_url>/<name>`` with a JSON object of arguments):

- requests: ``fail(status, method=, path=, times=, retry_after=)``, ``hang(…)``, ``cut(after=, …)``,
  ``latency(seconds)``, ``clear()``; ``front_down()``, ``front_up()``;
- watches: ``drop_watches(cut=)``, ``silence_watches(on=)``, ``expire_watches(times)``,
  ``compact()``;
- controllers: ``late_pods(seconds)``, ``stall(part)``, ``resume(part)``, ``slow_pulls(seconds)``,
  ``reject_pods(message)``;
- nodes: ``kubelet_down(node)``, ``kubelet_up(node)``, ``node_lost(node)``, ``node_back(node)``,
  ``node_deleted(node)``;
- pods: ``oom_kill(pod)``, ``kill(pod)``, ``evict(pod)``, ``evict_for_pressure(pod)``,
  ``preempt(pod)``, ``delete_pod(pod, grace)``, ``force_delete(pod)``.

**What it has not.** Volumes are not mounted (that their Secrets and ConfigMaps are there is
checked), memory limits and probes are not enforced, containers are not restarted (``restartPolicy``
is taken as ``Never``), objects are changed by merge patches only, and admission knows quotas,
priorities, service accounts and Pod Security "restricted".

A separate process: ``python -m tests.doubles.kubernetes --kubeconfig FILE``.
"""

from tests.doubles.kubernetes.cluster import Cluster
from tests.doubles.kubernetes.controllers.node_controller import Node
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.views import NeverHappened

__all__ = ["Cluster", "Image", "NeverHappened", "Node"]
