"""Stand-ins for a cluster's programs, first on PATH; they record what they are asked and really run jobs."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import psutil

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


class Cluster:
    """A cluster's folder."""

    def __init__(self, name: str, folder: Path, monkeypatch) -> None:
        self.folder = folder / name
        (self.folder / "bin").mkdir(parents=True)
        monkeypatch.setenv(name.upper(), str(self.folder))
        module: ModuleType = __import__(f"launching.{name}", fromlist=["PROGRAMS"])
        for program in module.PROGRAMS:
            path = self.folder / "bin" / program
            path.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" "{module.__file__}" {program} "$@"\n'
            )
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.chdir(REPOSITORY)

    def calls(self, *beginning: str) -> list[list[str]]:
        """Return the calls whose words begin so."""
        path = self.folder / "calls.jsonl"
        found = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        return [words for words in found if words[: len(beginning)] == list(beginning)]

    def uninstall(self) -> None:
        shutil.rmtree(self.folder / "bin")

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that know this cluster, besides this one."""
        found = []
        for process in psutil.process_iter():
            try:
                knows = str(self.folder) in process.environ().values()
                if (
                    knows
                    and process.status() != psutil.STATUS_ZOMBIE
                    and process.pid != os.getpid()
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found
