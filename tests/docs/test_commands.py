"""What the docs tell people to type is typed here: commands and Python blocks run, or are checked
to be ones that could.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import redis
import yaml

import gpuqueue
from benchmarks import NAMES as BENCHMARKS
from gpuqueue.cli import cli
from gpuqueue.dev.embedded_redis import EmbeddedRedis, find_server
from gpuqueue.launchers.kubernetes.manifest.names import selector
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.store.client import connect
from gpuqueue.store.reader import Reader as Queue
from tests.support.nodes import executors_of
from tests.support.pages import defaults
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

ROOT = Path(gpuqueue.__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "workers/dispatcher/README.md",
    "workers/gpu-runner/README.md",
]
#: Pages for operators of clusters have tests of their own: tests/docs/test_deployment_pages.py.
OPERATORS = ("GPU.md", "SECURITY.md")
PAGES += sorted(
    str(each.relative_to(ROOT)) for each in ROOT.glob("docs/**/*.md") if each.name not in OPERATORS
)
#: The broker that the docs have people use.
THEIRS = "redis://localhost:6379/0"
WORDS = (
    "make",
    "gpuqueue",
    "celery",
    "python",
    "pip",
    "redis-server",
    "export",
    "docker",
    "kubectl",
)
#: Longer than anything here takes on a busy machine, in seconds.
PATIENCE = 40.0


def blocks(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    )


def commands(page: str) -> list[str]:
    """Every line of the page's shell blocks, and whatever in its text has the form of a command."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    typed = [line for block in blocks(page, "sh") for line in block.splitlines()]
    inline = [
        each
        for each in re.findall(r"`([^`\n]+)`", text)
        if each.split()[0] in WORDS and " " in each
    ]
    # How the README deploys is for tests/docs/test_deployment_pages.py, too.
    elsewhere = ("helm ", "kubectl ") if page == "README.md" else ()
    return [
        each for each in typed + inline if each != "celery -A" and not each.startswith(elsewhere)
    ]


ALL = sorted({(command, page) for page in PAGES for command in commands(page)})
README_SHELL = blocks("README.md", "sh")
(DISPATCHER,) = [block for block in README_SHELL if "-A gpuqueue worker" in block]
(CALL,) = [block for block in README_SHELL if "import shop" in block]
(LOOK,) = blocks("docs/howto/inspect.md", "sh")
QUICKSTART = "docs/quickstart.md"
SHOP, *_ = blocks("README.md", "python")


# -- the README's ten lines ------------------------------------------------------------------------


@dataclass
class Reader:
    """Somebody who does what the README says, in a folder of their own, with a Redis that happens
    to be elsewhere.
    """

    url: str
    folder: Path

    def script(self, text: str) -> list[str]:
        return ["sh", "-c", text.replace(THEIRS, self.url)]

    @property
    def env(self) -> dict[str, str]:
        ours = ("GPU", "T4_", "MIG_", "CELERY", "PYTHONPATH")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {
            **clean,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def own(self) -> dict[str, str]:
        """The environment after the README's `export`."""
        return {
            **self.env,
            "CELERY_BROKER_URL": self.url,
            "CELERY_RESULT_BACKEND": self.url,
            "GPUQUEUE_APP": "shop",
        }

    def run(
        self, command: list[str], *, own: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        env = self.own if own else self.env
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def send(self, **options: object) -> str:
        """Send the README's task; answers its id."""
        code = f"import shop; print(shop.train.apply_async((1,), **{options!r}).id)"
        return self.run([sys.executable, "-c", code]).stdout.strip()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "shop.py").write_text(SHOP)
    with EmbeddedRedis() as server:
        made = Reader(server.url, folder)
        log = folder / "dispatcher.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                made.script(DISPATCHER),
                cwd=folder,
                env=made.env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            known = Queue(connect(server.url))
            until(
                lambda: known.leader() or process.poll() is not None,
                PATIENCE,
                "a dispatcher leads",
                log.read_text,
            )
            assert process.poll() is None, log.read_text()
            yield made
        finally:
            _end(process)
            for executor in executors_of(server.url):
                executor.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            continue


def test_the_application_of_the_readme_knows_nothing_of_gpuqueue_and_has_ten_lines() -> None:
    lines = [line for line in SHOP.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 10
    assert "gpuqueue" not in SHOP


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_quickstart_has_every_block_of_the_readme(language: str) -> None:
    elsewhere = ("make ", "kubectl ")
    of_readme = [each for each in blocks("README.md", language) if not each.startswith(elsewhere)]
    assert len(of_readme) == {"sh": 4, "python": 1}[language]
    shown = blocks(QUICKSTART, language)
    assert [each for each in shown if each in of_readme] == (of_readme)


def test_the_three_commands_of_the_readme_run_it(reader: Reader) -> None:
    done = reader.run(reader.script(CALL), own=False)
    assert re.search(r"^3 rounds in process \d+, GPU ", done.stdout, re.MULTILINE), (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    "page", [page for page in PAGES if [each for each in blocks(page, "python") if each != SHOP]]
)
def test_the_python_of_a_page_runs(reader: Reader, page: str) -> None:
    code = "\n".join(each for each in blocks(page, "python") if each != SHOP)
    done = reader.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr


def test_the_commands_that_look_and_act_run_and_answer(reader: Reader) -> None:
    job = reader.send(countdown=300)
    until(lambda: job in reader.run(["gpuqueue", "why", job]).stdout, PATIENCE, "the job is known")
    for command in LOOK.strip().splitlines():
        if command.startswith(
            "gpuqueue logs"
        ):  # a local job's are in its dispatcher's log, a delayed one has none
            done = reader.run(shlex.split(command.replace("ID", job)))
            assert (done.returncode, "no attempt has started yet" in done.stderr) == (1, True)
        elif command.startswith("gpuqueue"):
            done = reader.run(shlex.split(command.replace("ID", job)))
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            assert done.stdout.strip(), command
            if "why" in command:
                assert "delayed" in done.stdout or "waits for a time" in done.stdout
    another = reader.send(countdown=300)
    (cancel,) = [
        line
        for page in PAGES
        for line in commands(page)
        if line.startswith("gpuqueue cancel ID --wait")
    ]
    done = reader.run(shlex.split(cancel.replace("ID", another)))
    assert (done.returncode, "CANCELLED" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize("name", ["status", "why", "logs", "cancel", "classes", "doctor"])
def test_the_commands_that_are_said_to_take_json_do(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert "--json" in [option for parameter in command.params for option in parameter.opts]


# -- every other command ---------------------------------------------------------------------------


def test_pages_have_blocks_of_known_languages_only() -> None:
    for page in PAGES:
        opened = re.findall(r"^```(\w*)$", (ROOT / page).read_text(), re.MULTILINE)[::2]
        assert set(opened) <= {
            "sh",
            "text",
            "python",
            "toml",
            "mermaid",
            "yaml",
            "dockerfile",
            "promql",
        }, page


@pytest.mark.parametrize(
    ("command", "page"), ALL, ids=[f"{page}: {command}" for command, page in ALL]
)
def test_a_command_of_the_docs_is_one_that_works(command: str, page: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        check_settings([words.pop(0)])
    program, *arguments = words
    if program == "export":
        check_settings(arguments)
    elif program == "make":
        assert (
            subprocess.run(
                ["make", "-n", *arguments], cwd=ROOT, capture_output=True, timeout=PATIENCE
            ).returncode
            == 0
        )
    elif program == "gpuqueue":
        with cli.make_context("gpuqueue", arguments) as context:  # raises for what it does not know
            found = cli.get_command(context, arguments[0])
            assert found is not None
            if len(arguments) > 1:  # a command named alone is named, not typed
                found.make_context(arguments[0], arguments[1:], parent=context)
    elif program == "redis-server":
        check_server(arguments, tmp_path)
    elif program == "docker":
        check_docker(arguments, page, tmp_path)
    elif program == "kubectl":
        check_kubectl(arguments)
    elif program == "pip" and arguments[0] == "wheel":
        assert arguments[-1] == "."  # tests/integration/test_images.py makes it
    elif program == "pip":
        (extra,) = re.findall(r"\.\[(\w+)\]", " ".join(arguments))
        assert (
            extra
            in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
                "optional-dependencies"
            ]
        )
    elif program == "celery":
        if arguments[:3] == ["-A", "gpuqueue", "worker"] and command in DISPATCHER:
            return  # it runs above
        # Without the daemon: options that it does not know are refused before its help is shown.
        env = {**os.environ, "CELERY_BROKER_URL": THEIRS}
        done = subprocess.run(
            [sys.executable, "-m", "celery", *arguments, "--help"],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, "Usage:" in done.stdout) == (0, True), done.stderr
    elif program == "curl":
        (path,) = re.findall(
            rf"^-s localhost:{Settings().metrics_port}/(\w+)$", " ".join(arguments)
        )
        assert (
            f"| `/{path}` |" in (ROOT / page).read_text()
        )  # tests/integration/test_metrics.py asks for them
    elif program == "python" and arguments[:2] == ["-m", "benchmarks"]:
        assert set(arguments[2:]) <= set(BENCHMARKS)
    elif program == "python" and arguments[0] == "-m":
        assert (ROOT / arguments[1].replace(".", "/") / "__main__.py").is_file()
    elif program == "python" and arguments[0] == "-c":
        assert command in CALL
    else:
        assert program == "python" and (ROOT / arguments[0]).is_file(), command


def check_settings(assignments: list[str]) -> None:
    said = dict(each.split("=", 1) for each in assignments)
    assert said.keys() <= {
        *defaults(Settings.model_fields),
        *defaults(ClusterSettings.model_fields),
    }
    configured(Settings(**said))
    ClusterSettings(**said)


def check_docker(arguments: list[str], page: str, directory: Path) -> None:
    """Nothing is built or pushed here; what would run in an image runs in this environment."""
    verb, *rest = arguments
    if verb == "stop" and not rest:
        return  # named as a comparison, not typed
    if verb == "build":
        options = dict(zip(rest[:-1:2], rest[1:-1:2], strict=True))
        assert options.keys() <= {"-f", "-t"}
        assert rest[-1] == "."
        assert re.fullmatch(r"[a-z./-]+:\d[\d.]*", options["-t"])
        assert "-f" not in options or (ROOT / options["-f"]).is_file()
    elif verb == "push":
        assert f"-t {rest[0]} ." in (ROOT / page).read_text()
    else:
        assert [verb, *rest[:3]] == ["run", "--rm", "--user", "1000"]
        (directory / "shop.py").write_text(SHOP)
        program, *words = rest[4:]
        run = {
            "python3": [sys.executable, *words],
            "celery": [sys.executable, "-m", "celery", *words],
        }[program]
        done = subprocess.run(run, cwd=directory, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr


def check_kubectl(arguments: list[str]) -> None:
    """What it names is in the page's objects: it is asked of no cluster here."""
    text = (ROOT / "docs" / "KUBERNETES.md").read_text()
    (objects,) = [
        block for block in blocks("docs/KUBERNETES.md", "yaml") if "kind: Deployment" in block
    ]
    named = {each["metadata"]["name"] for each in yaml.safe_load_all(objects)}
    if arguments[0] == "-n":
        assert arguments[1] == "gpu-jobs"
        arguments = arguments[2:]
    verb, *rest = arguments
    if verb == "patch":
        assert json.loads(rest[rest.index("--patch") + 1])["status"]["capacity"]
        return
    assert verb in {"create", "label", "apply", "rollout", "exec", "get", "delete", "logs"}
    for word in rest:
        kind, _, name = word.partition("/")
        if kind in ("deployment", "deploy"):
            assert name in named, word
    if "--" in rest:
        program, *words = rest[rest.index("--") + 1 :]
        assert program == "gpuqueue"
        cli.make_context("gpuqueue", words)
    if "-l" in rest:
        key, _, value = rest[rest.index("-l") + 1].partition("=")
        assert selector("x").startswith(f"{key}={value},")
    if verb == "apply":
        assert f"As `{rest[rest.index('-f') + 1]}`:" in text


def check_server(arguments: list[str], directory: Path) -> None:
    """Start it as the docs say, on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(find_server()), *arguments, "--port", str(port), "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port, decode_responses=True)
    try:
        until(lambda: _answers(client), PATIENCE, "the server answers")
        for name, value in zip(arguments[::2], arguments[1::2], strict=True):
            name = name.removeprefix("--")
            assert client.config_get(name) == {name: value}
    finally:
        client.close()
        process.terminate()
        process.wait(10)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


# -- entry points ----------------------------------------------------------------------------------


def test_the_entry_point_of_a_dispatcher_hands_options_on(reader: Reader) -> None:
    run = [sys.executable, str(ROOT / "workers" / "dispatcher" / "run.py")]
    shown = reader.run([*run, "--help"])
    assert shown.returncode == 0
    assert "--gpu-watch / --no-gpu-watch" in shown.stdout
    refused = reader.run([*run, "-Q", "orders"])  # a later -Q replaces the queues
    assert refused.returncode not in (0, None)
    assert "queue='orders' is not the name of a GPU queue" in refused.stderr


def test_the_entry_point_of_a_dispatcher_is_the_command_of_its_readme() -> None:
    source = (ROOT / "workers" / "dispatcher" / "run.py").read_text()
    (text,) = re.findall(r"sys\.argv\[1:1\] = (\[.*?\])", source, re.DOTALL)
    words = ["celery", *ast.literal_eval(text)]
    assert words == shlex.split(
        re.findall(r"is `(celery [^`]+)`", (ROOT / PAGES[2]).read_text())[0]
    )
    assert " ".join(words) in DISPATCHER


def test_an_executor_started_by_hand_says_what_is_missing() -> None:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GPUQUEUE", "CELERY"))
    }
    run = [sys.executable, str(ROOT / "workers" / "gpu-runner" / "executor.py")]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 78
    said = (
        "gpuqueue: CELERY_BROKER_URL is not set; the executor is started by a dispatcher, which"
        " sets it"
    )
    assert done.stderr.strip() == said


# -- celeryconfig.py of the root -------------------------------------------------------------------


def test_celery_without_an_application_speaks_with_dispatchers_here(reader: Reader) -> None:
    done = reader.run(["celery", "inspect", "ping", "--json"], cwd=ROOT)
    assert list(json.loads(done.stdout).values()) == [{"ok": "pong"}], done.stderr


def test_a_worker_without_an_application_is_refused_here(reader: Reader) -> None:
    begun = time.monotonic()
    done = reader.run(["celery", "worker", "-Q", "gpu.t4.shared"], cwd=ROOT)
    assert done.returncode not in (0, None)
    assert "gpuqueue: a worker with this celeryconfig.py is no dispatcher" in done.stderr
    assert time.monotonic() - begun < PATIENCE / 2


def test_applications_are_not_configured_by_it(reader: Reader) -> None:
    code = "from celery import Celery; from gpuqueue.celery import app\n"
    code += (
        "print(Celery('own').conf.worker_consumer, Celery('own').conf.task_queues,"
        " app.conf.worker_consumer)"
    )
    done = reader.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.stdout.split() == [
        "celery.worker.consumer:Consumer",
        "None",
        "gpuqueue.glue.worker.consumer:Consumer",
    ], done.stderr
