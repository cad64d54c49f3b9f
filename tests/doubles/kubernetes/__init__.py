"""A double of a Kubernetes cluster: an API server over real HTTP, and nodes that run containers as
processes of this machine.

It behaves as a real Kubernetes 1.36 did: ``tests/contract/test_recordings.py`` compares it with
``tests/contract/recordings``::

    with Cluster(tmp_path, pace=0.05) as cluster:
        cluster.images["shop:1"] = Image(env={"PYTHONPATH": "…"}, cwd="…")
        cluster.secret("broker", {"CELERY_BROKER_URL": "redis://…"})
        ...                                         # a system under test, with cluster.kubeconfig
        pod = cluster.until(lambda: cluster.pod_of("gpu-job"))
        cluster.faults.oom_kill(pod["metadata"]["name"])

**The cluster.** ``Cluster(directory, pace=0.05, manifest_pace=1.0, latency=0, nodes=None,
images=None, namespace="default", port=0, bookmarks=60, processes=True, events=True)``. ``pace``
multiplies the delays of controllers, scheduler and kubelets, such as the 1.1 s from the end of a
container to the terminal phase of its pod, or the back-off of pulls. ``manifest_pace`` multiplies
the seconds that a manifest states (grace, deadlines, time to live). Faults take real seconds.

- ``kubeconfig`` (a path), ``url``, ``token``, ``control_url``. ``user(name, rules, namespaces,
  cluster_rules)`` returns the token of a user with these rights alone, ``kubeconfig_for(token)`` a
  kubeconfig with it. ``door()`` is one more port of the API server, for one client: its ``down()``,
  ``up()``, ``drop()``, ``let_through()`` cut that client off, and no other.
- ``pods()``, ``jobs()``, ``pod(name)``, ``job(name)``, ``pod_of(job)``, ``events_of(name)``: copies
  of objects. ``pids(pod)``, ``log(pod)``: processes and output. ``until(predicate, seconds)``
  waits.
- ``create(resource, body)``, ``secret(name, data)``, ``config_map(name, data)``,
  ``add_namespace(name, labels)``, ``add_node(Node(…))``. ``autoscale(Node(…), most)``: nodes come
  for pods that no node takes.
- ``images``: name → :class:`Image`. The cluster cannot pull other images.
- ``requests``: ``requests["create", "jobs"].count``, ``.bytes_in``, ``.bytes_out``, ``.codes``;
  ``requests.latest``; ``requests.clear()``.
- ``preload(jobs)``: stores Jobs with pods that run already, for benchmarks.

**Containers.** The first process gets a clean environment: ``PATH`` (the folder of this interpreter
first), ``HOME``, ``HOSTNAME``, the variables of the image, then those of the manifest. When it
ends, the double kills all its descendants. There is no mount namespace: command, arguments and
environment name a file of the container in place of the termination message path. With
``processes=False``, or with the annotation ``double.gpuqueue.io/seconds``, a container is a timer
(:mod:`tests.doubles.kubernetes.nodes.scripted`).

**Faults** are methods of ``cluster.faults`` (:mod:`tests.doubles.kubernetes.faults`), also over
HTTP (``POST <control_url>/<name>`` with the arguments as a JSON object):

- requests: ``fail(status, method=, path=, times=, retry_after=)``, ``hang(…)``, ``cut(after=, …)``,
  ``latency(seconds)``, ``clear()``; ``front_down()``, ``front_up()``,
  ``shift_clock(seconds)`` (of all clusters of the process);
- watches: ``drop_watches(cut=)``, ``silence_watches(on=)``, ``expire_watches(times)``,
  ``compact()``;
- controllers: ``late_pods(seconds)``, ``stall(part)``, ``resume(part)``, ``policy(kind, why)``;
- nodes: ``slow_pulls(seconds)``, ``registries_answer(status)``, ``no_sandboxes(why)``,
  ``reject_pods(message)``;
- nodes: ``kubelet_down(node)``, ``kubelet_up(node)``, ``node_lost(node)``, ``node_back(node)``,
  ``node_deleted(node)``, ``cordon(node, on=)``;
- pods: ``oom_kill(pod)``, ``kill(pod)``, ``evict(pod)``, ``evict_for_pressure(pod)``,
  ``preempt(pod)``, ``delete_pod(pod, grace)``, ``force_delete(pod)``.

**Limits.** It mounts no volumes, but checks that their Secrets and ConfigMaps exist. It enforces no
memory limits and no probes, and restarts no containers (``restartPolicy`` counts as ``Never``). Of
affinity between pods, it knows what is required on a node. Objects change by merge patches only.
Admission knows quotas, priorities, service accounts and Pod Security "restricted".

As a separate process: ``python -m tests.doubles.kubernetes --kubeconfig FILE``.
"""

from tests.doubles.kubernetes.cluster import Cluster
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.objects.node import Node
from tests.doubles.kubernetes.views import NeverHappened

__all__ = ["Cluster", "Image", "NeverHappened", "Node"]
