"""Chapter 23: several processes on one computer that stand for several.

``Ranks(4)`` starts four Python processes, through ``torch.multiprocessing``,
and keeps them. Where the system can fork, they are copies of one process that
has imported torch and done nothing else. Each call of ``run`` makes them one
group of ``torch.distributed``, numbered from 0, and lets every one of them run
the same function on its own. What differs is its number, its **rank**.
"""

import datetime
import os
import signal
import tempfile
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import distributed, multiprocessing

from linear_time import _validate

#: Seconds for which all wait, until all have met: a busy computer is slow.
MEETING = 60
TIMED_OUT = ("timed out", "timeout", "connection closed", "connection reset")


class Ranks:
    """Processes that wait for functions to run.

    They talk by gloo, torch's transport between CPUs, and meet in a file of a
    temporary folder, so that no port has to be free.

    Args:
        world: number of processes, as torch calls it.

    Raises:
        TypeError, ValueError: world is not a whole number ≥ 1.
    """

    def __init__(self, world: int) -> None:
        self.world = _validate.count("world", world)
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.runs = 0
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":  # one process imports torch for all
            context.set_forkserver_preload([__name__])
        self.pipes, self.processes = [], []
        for rank in range(self.world):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(there, rank), daemon=True
            )
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)
        # Also where nobody closes them: when the cell that started them is run
        # again, and at the end of Python.
        self._end = weakref.finalize(
            self, _end, self.processes, self.pipes, self.folder
        )

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        world: int | None = None,
        timeout: float | int = 60,
    ) -> list[Any]:
        """``function(rank, *args)`` in every process; the results by rank.

        In each, ``torch.distributed`` is ready, torch's seed is 0, and its
        default dtype is that of the caller.

        Args:
            function: may be written in a notebook; it and the arguments are
                sent to the processes, and results come back, as copies.
            *args: the same for all; ``args[i][rank]`` is how one gives each
                its own.
            world: use the first so many processes; all if None.
            timeout: seconds after which who waits for another gives up, once
                all have met.

        Raises:
            TimeoutError: some waited for a process that did not come; the
                message says what became of each.
            RuntimeError: the function failed in some process otherwise; the
                message has the first one's traceback.
            ValueError: world is larger than there are processes.
        """
        world = self.world if world is None else _validate.count("world", world)
        _validate.number("timeout", timeout)
        if world > self.world:
            raise ValueError(
                f"world: expected at most {self.world} processes, got {world}"
            )
        self.runs += 1
        store = Path(self.folder.name, f"run{self.runs}")
        dtype = torch.get_default_dtype()
        job = cloudpickle.dumps(
            (function, args, world, str(store), timeout, dtype)
        )
        for pipe in self.pipes[:world]:
            pipe.send_bytes(job)
        answers = []
        for rank, pipe in enumerate(self.pipes[:world]):
            if not pipe.poll(2 * (timeout + MEETING)):
                self.close()
                raise TimeoutError(
                    f"function: expected an end, got none of rank {rank}; "
                    "the processes were ended"
                )
            answers.append(cloudpickle.loads(pipe.recv_bytes()))
        for pipe in self.pipes[:world]:
            pipe.send_bytes(b"all have ended")
        if failed := [r for r, (right, _) in enumerate(answers) if not right]:
            _report(answers, failed)
        return [answer for _, answer in answers]

    def close(self) -> None:
        """End the processes; of itself where nothing holds them any more."""
        self._end()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _end(
    processes: Sequence[Any],
    pipes: Sequence[Any],
    folder: tempfile.TemporaryDirectory,
) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    for pipe in pipes:
        pipe.close()
    folder.cleanup()


def _report(answers: Sequence[Any], failed: Sequence[int]) -> None:
    """Raise: a failure of a process's own comes before waiting for it."""
    # Of the message, not of the traceback: a line of code may say timeout.
    own = [
        r
        for r in failed
        if not any(w in answers[r][1][0].lower() for w in TIMED_OUT)
    ]
    if own:
        raise RuntimeError(f"rank {own[0]}:\n{answers[own[0]][1][1]}")
    told = [
        f"rank {r}: " + ("waited in vain" if r in failed else "finished")
        for r in range(len(answers))
    ]
    raise TimeoutError("; ".join(told))


def _serve(pipe: Any, rank: int) -> None:
    """Run what comes through the pipe, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which stops the caller
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"
    while True:
        try:
            job = pipe.recv_bytes()
        except EOFError:
            return
        try:
            answer = True, _run(job, rank)
        except Exception as error:  # told to the caller
            said = "".join(traceback.format_exception_only(error))
            answer = False, (said, traceback.format_exc())
            _leave()  # who waits for this rank need not
        pipe.send_bytes(cloudpickle.dumps(answer))
        pipe.recv_bytes()
        _leave()


def _run(job: bytes, rank: int) -> Any:
    function, args, world, store, timeout, dtype = cloudpickle.loads(job)
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=max(timeout, MEETING)),
    )
    distributed.distributed_c10d._set_pg_timeout(
        datetime.timedelta(seconds=timeout)
    )
    return function(rank, *args)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
    # A start that failed, as where another rank has left already, has counted
    # its group all the same. Ranks that count differently never meet again.
    distributed.distributed_c10d._world.group_count = 0
