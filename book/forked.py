"""Programs that begin behind their imports: one Python imports, and forks for each of them.

    with Preloaded("torch", "linear_time.training") as python:
        done = python.run("small.py", "--seeds", "1", cwd=folder)

Of the tests' process a program sees nothing: the Python that forks is started as a program is, and
each of them is a process of a session of its own.
"""

import fcntl
import gc
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Forked:
    """A program that was started, as ``subprocess`` has it."""

    stdin = stdout = stderr = None

    def __init__(self, python: "Preloaded", pid: int) -> None:
        self.python, self.pid = python, pid
        self.returncode: int | None = None

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            self.returncode = self.python.ask("wait", self.pid, options)
        return self.returncode

    def wait(self) -> int | None:
        return self.poll(0)


class Preloaded:
    """A Python that has imported these modules, by the path and the variables that are given."""

    def __init__(self, *modules: str, env: Mapping[str, str] = os.environ) -> None:
        command, self.env = [sys.executable, __file__, *modules], env
        self.server = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Preloaded":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def ask(self, *request: Any) -> Any:
        assert self.server.stdin and self.server.stdout
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        *command: Any,
        stdout: str | Path = os.devnull,
        stderr: str | Path = os.devnull,
        cwd: Path = Path(),
        env: Mapping[str, str] | None = None,
        pipes: Sequence[int] = (),
    ) -> Forked:
        """``python *command``, which prints into files; the variables are those of this Python.

        Of the caller's descriptors it has those of these pipes, by the same numbers.
        """
        given = [[str(part) for part in command], str(stdout), str(stderr), str(cwd.absolute())]
        ends = [(f"/proc/{os.getpid()}/fd/{end}", flags(end), end) for end in pipes]
        return Forked(self, self.ask("start", *given, dict(env or self.env), ends))

    def run(self, *command: Any, **where: Any) -> subprocess.CompletedProcess[str]:
        """``python *command`` to its end."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = (Path(folder, name) for name in ("out", "err"))
            code = self.start(*command, stdout=out, stderr=err, **where).wait()
            said = [path.read_text(encoding="utf8") for path in (out, err)]
        return subprocess.CompletedProcess(command, code or 0, *said)

    def kernel(
        self, command: list[str], *, env: Mapping[str, str], cwd: str | None = None, **_: Any
    ) -> Forked:
        """In the place of jupyter_client's ``launch_kernel``."""
        assert command[:3] == [sys.executable, "-m", "ipykernel_launcher"], command
        launcher = importlib.util.find_spec("ipykernel_launcher")
        assert launcher and launcher.origin
        return self.start(launcher.origin, *command[3:], env=env, cwd=Path(cwd or ""))


def flags(descriptor: int) -> int:
    """Whether it is one to read or to write."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE


def serve() -> list[str]:
    """Fork for each program that is asked for; what it is, in the fork."""
    for line in iter(sys.stdin.readline, ""):
        what, *given = json.loads(line)
        if what == "wait":
            pid, status = os.waitpid(*given)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return become(*given)
            while os.getsid(answer) != answer:  # a signal to its group is not one to ours
                time.sleep(0.001)
        print(json.dumps(answer), flush=True)
    os._exit(0)


def become(
    command: list[str],
    stdout: str,
    stderr: str,
    cwd: str,
    env: dict[str, str],
    pipes: list[tuple[str, int, int]],
) -> list[str]:
    """All that a program finds as it begins, but its imports."""
    for path, how, number in pipes:  # before its session is its own: then the caller may close them
        file = os.open(path, how)
        os.dup2(file, number)
        if file != number:
            os.close(file)
    os.setsid()
    for stream, path in enumerate((os.devnull, stdout, stderr)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    before, after = (
        [path for path in found.get("PYTHONPATH", "").split(os.pathsep) if path]
        for found in (os.environ, env)
    )
    sys.path[: 1 + len(before)] = [str(Path(command[0]).parent), *after]
    os.environ.clear()
    os.environ.update(env)
    return command


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    sys.argv = serve()
    runpy.run_path(sys.argv[0], run_name="__main__")
