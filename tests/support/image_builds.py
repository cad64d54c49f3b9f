"""What a builder would make of a Dockerfile, without a builder: pip's steps carried out, files in
their places, all read-only.

There is no base image here: the interpreter is this machine's, and what apt would install is not.
Everything that is gpuqueue's own is as in the image: which packages, which files, which words,
which environment.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.dockerfiles import ROOT, Dockerfile, Stage, context

#: The folder that the images' virtual environments are in.
VENV = "/opt/venv"
#: What changes the base's system, and is left out: this machine's stays as it is.
SYSTEM = re.compile(r"apt-get|useradd|install -d ")
#: Read by every Python of the image: each write to a file is refused, as on a read-only root file
#: system.
READ_ONLY = """
import errno, os, sys
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate",
    "tempfile.mkstemp", "tempfile.mkdtemp",
}
MOUNTED = os.environ.get("WRITABLE")  # a file system that can be written
def refuse(event, args):
    if MOUNTED and isinstance(args and args[0], (str, bytes)):
        if os.fsdecode(args[0]).startswith(MOUNTED):
            return
    if event == "open":
        name, mode, flags = args
        written = isinstance(flags, int) and flags & WRITES
        device = isinstance(name, int) or os.fsdecode(name).startswith(("/dev/", "/proc/"))
        if written and not device:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(name))
    elif event in CHANGES:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(args[0]))
sys.addaudithook(refuse)
"""


@dataclass
class Image:
    """An image below a folder of this machine, which stands for its root."""

    root: Path
    dockerfile: Dockerfile
    folder: Path | None = None
    """Where it is started instead of its WORKDIR: a folder of this machine."""

    @property
    def cwd(self) -> Path:
        """Its working directory."""
        return self.folder or self.inside(self.dockerfile.final.last("WORKDIR").text)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.inside(f"{VENV}/bin/python3")

    def inside(self, path: str) -> Path:
        """Where a path of the image is here."""
        return self.root / path.lstrip("/")

    def env(self, told: dict[str, str]) -> dict[str, str]:
        """What a process of it has: nothing of this machine's, but the image's own and what it is
        told.
        """
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "PYTHONTZPATH": "/nonexistent",
        }
        for each in self.dockerfile.final.all("ENV"):
            for name, value in each.variables.items():
                env[name] = value.replace("$PATH", env["PATH"]).replace(
                    VENV, str(self.inside(VENV))
                )
        return env | {"HOME": "/nonexistent", "PYTHONPATH": str(self.root / "read-only")} | told

    def run(
        self, *words: str, timeout: float = 60, **told: str
    ) -> subprocess.CompletedProcess[str]:
        """Run some words in it, as the user it says; its CMD if there are none."""
        return subprocess.run(
            self.command(words),
            cwd=self.cwd,
            env=self.env(told),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, *words: str, log: Path, **told: str) -> subprocess.Popen[bytes]:
        """Start some words in it, as :meth:`run`, with their output in a file."""
        with log.open("wb") as output:
            return subprocess.Popen(
                self.command(words),
                cwd=self.cwd,
                env=self.env(told),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def command(self, words: tuple[str, ...]) -> list[str]:
        """The command for this machine: ``words`` or its CMD, as its USER if possible."""
        said = list(words or self.dockerfile.final.last("CMD").words)
        return as_user(self.dockerfile.final.last("USER").text) + said

    def packages(self) -> set[str]:
        """The packages that it has, by their names in small letters."""
        listed = [
            str(self.python),
            "-m",
            "pip",
            "list",
            "--format=freeze",
            "--disable-pip-version-check",
        ]
        done = subprocess.run(listed, capture_output=True, text=True, check=True)
        return {
            line.partition("==")[0].lower().replace("_", "-") for line in done.stdout.splitlines()
        }


def build(dockerfile: Dockerfile, root: Path, env: Mapping[str, str]) -> Image:
    """Carry a Dockerfile out below ``root``. ``env`` is what pip needs here. Raises AssertionError
    with pip's output.
    """
    image = Image(root, dockerfile)
    for stage in dockerfile.stages:
        source = root / f"context-{stage.name or 'final'}"
        _copy(stage, source, image)
        _install(stage, source, image, env)
    (root / "read-only").mkdir()
    (root / "read-only" / "sitecustomize.py").write_text(READ_ONLY)
    for folder in (image.cwd, root):
        folder.mkdir(exist_ok=True, parents=True)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(root)], check=True)
    return image


def export(folder: Path) -> Path:
    """Copy to a folder what a builder is sent: a build in the checkout itself would leave its own
    behind.
    """
    for file in context():
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, place)
    return folder


def remove(root: Path) -> None:
    """Take a read-only folder away."""
    subprocess.run(["chmod", "-R", "u+w", str(root)], check=True)
    shutil.rmtree(root)


def _copy(stage: Stage, source: Path, image: Image) -> None:
    for copy in stage.all("COPY"):
        *names, target = copy.words
        if names[0].startswith("--from="):
            continue  # the virtual environment is made in its place
        for file in context():
            for name in names:
                if file != name and not file.startswith(f"{name}/"):
                    continue
                base = image.root if target.startswith("/") else source
                # A folder's contents go into the target, a file goes into a folder or takes the
                # target's name.
                inner = (
                    file[len(name) + 1 :]
                    if file != name
                    else Path(file).name
                    if target.endswith("/")
                    else ""
                )
                place = base / target.strip("./") / inner if inner else base / target.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, place)


def _install(stage: Stage, source: Path, image: Image, env: Mapping[str, str]) -> None:
    said = {
        name: value
        for each in stage.all("ARG", "ENV")
        for name, value in each.variables.items()
        if name != "PATH"
    }
    base = Path(getattr(sys, "_base_executable", sys.executable)).parent
    for run in stage.all("RUN"):
        if "pip install" not in run.text:
            assert SYSTEM.search(run.text), run.text
            continue
        done = subprocess.run(
            ["sh", "-ec", run.text.replace(VENV, str(image.inside(VENV)))],
            cwd=source,
            env={**env, **said, "PATH": f"{base}{os.pathsep}{env['PATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def as_user(number: str) -> list[str]:
    """A command prefix that runs a command as a user; empty if we cannot change user."""
    if os.geteuid() != 0:
        return []
    # An interpreter that lies in root's home must be read, and may be: reading is all that is left
    # of root's rights.
    left = "-all,+dac_read_search"
    rights = [f"--inh-caps={left}", f"--ambient-caps={left}", f"--bounding-set={left}"]
    return [
        "setpriv",
        f"--reuid={number}",
        f"--regid={number}",
        "--clear-groups",
        "--no-new-privs",
        *rights,
    ]
