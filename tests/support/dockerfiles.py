"""Dockerfiles, read as a builder reads them, and what of the checkout a builder gets to see."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import gpuqueue

ROOT = Path(gpuqueue.__file__).parent.parent
DOCKERFILES = sorted(str(each.relative_to(ROOT)) for each in ROOT.glob("workers/*/Dockerfile"))


@dataclass
class Instruction:
    """One instruction: its verb in capitals, and what follows it on one line."""

    verb: str
    text: str

    @property
    def words(self) -> list[str]:
        """What follows it: the words of a JSON list, or those between blanks."""
        return list(json.loads(self.text)) if self.text.startswith("[") else self.text.split()

    @property
    def variables(self) -> dict[str, str]:
        """What an ENV or ARG sets; quotes and references as they stand."""
        return dict(re.findall(r"(\w+)=(\S*)", self.text)) or {self.text: ""}


@dataclass
class Stage:
    """One stage: its base, its name ("" for the last one, as a rule), and its instructions."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, *verbs: str) -> list[Instruction]:
        """Its instructions of some verbs, in order."""
        return [each for each in self.instructions if each.verb in verbs]

    def last(self, verb: str) -> Instruction:
        """The last of a verb, which is the one that counts."""
        return self.all(verb)[-1]


@dataclass
class Dockerfile:
    """A whole one: the arguments before its first FROM, and its stages."""

    path: str
    arguments: dict[str, str]
    stages: list[Stage]

    @property
    def final(self) -> Stage:
        """The stage that is the image."""
        return self.stages[-1]

    @property
    def instructions(self) -> list[Instruction]:
        """Those of all stages."""
        return [each for stage in self.stages for each in stage.instructions]


def read(path: str) -> Dockerfile:
    """Read a Dockerfile of the checkout."""
    text = "\n".join(
        line for line in (ROOT / path).read_text().splitlines() if not line.lstrip().startswith("#")
    )
    found = Dockerfile(path, {}, [])
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        verb, _, rest = line.strip().partition(" ")
        instruction = Instruction(verb.upper(), " ".join(rest.split()))
        if instruction.verb == "FROM":
            base, _, name = instruction.text.partition(" AS ")
            found.stages.append(Stage(base, name))
        elif found.stages:
            found.stages[-1].instructions.append(instruction)
        else:
            found.arguments |= instruction.variables
    return found


def context() -> list[str]:
    """Files of the checkout that a builder is sent: those that git knows or would add, and
    .dockerignore lets through.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        listed, cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    return sorted(
        name for name in set(names) if name and (ROOT / name).is_file() and not is_ignored(name)
    )


def is_ignored(name: str) -> bool:
    """Whether .dockerignore keeps a file from the builder: the last pattern that matches it, or a
    folder of it, decides.
    """
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        if _matches(name, pattern.lstrip("!").rstrip("/")):
            ignored = not pattern.startswith("!")
    return ignored


def _matches(name: str, pattern: str) -> bool:
    places = [str(each) for each in (PurePosixPath(name), *PurePosixPath(name).parents)][:-1]
    if pattern.startswith("**/"):
        return any(fnmatch(each.rpartition("/")[2], pattern[3:]) for each in places)
    return any(fnmatch(each, pattern) and each.count("/") == pattern.count("/") for each in places)
