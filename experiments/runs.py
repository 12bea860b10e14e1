"""What the experiments share: a command line, jobs in parallel, a record that is resumed."""

import argparse
import gc
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linear_time import checks, records
from linear_time.datasets import digits
from linear_time.records import Record
from linear_time.recurrent import GRU
from linear_time.training import Config

RECORDED = Path(__file__).parent.parent / "src" / "linear_time" / "recorded"
DIGITS_ROWS = {"train": 1200, "validation": 240, "test": 357}


def parser(
    doc: str | None,
    seeds: Sequence[int],
    sizes: Collection[str] = (),
    steps: int | None = None,
    workers: int = 2,
) -> argparse.ArgumentParser:
    """The command line of all experiments, to which each may add its own options.

    Where there are sizes, they say how many steps there are unless ``--steps`` does.
    """
    found = argparse.ArgumentParser(description=doc)
    found.add_argument("--workers", type=int, default=workers, help="processes")
    found.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    if sizes:
        found.add_argument("--size", choices=sizes, default="full")
    if sizes or steps:
        found.add_argument("--steps", type=int, default=steps, help="updates of a run")
    found.add_argument("--out", type=Path, default=RECORDED, help="folder of the record")
    return found


def device() -> torch.device:
    """The CPU, or a GPU: worker processes take turns over those there are."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    worker = multiprocessing.current_process()._identity or (0,)  # type: ignore[attr-defined]
    torch.cuda.set_device(worker[0] % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def without_checks() -> None:
    """No search for NaN, for Δ ≤ 0 or for wrong tokens: each would wait for the GPU.

    The loss and the norm of the gradient are still checked, by ``train``.
    """
    checks(values=False)
    warnings.filterwarnings("ignore", message="RNN module weights")


def graphed(network: nn.Module, tokens: Tensor) -> nn.Module:
    """On a GPU: the network whose forward and backward in training are replayed as CUDA graphs.

    Each kernel of a model this small runs for less time than Python takes to ask for it.
    """
    if tokens.device.type != "cuda":
        return network
    # Graphs of networks that are gone lie in cycles: one that Python frees while another graph is
    # recorded ends the recording, where freeing is not permitted.
    gc.collect()
    graph: nn.Module = torch.cuda.make_graphed_callables(
        network.train(), (tokens,), allow_unused_input=True
    )
    return graph


def config(job: dict, warmup: int, evaluations: int, **others: Any) -> Config:
    """The settings of a job's training, evaluated so many times; ``steps`` may be others."""
    steps = others.pop("steps", job["steps"])
    return Config(
        steps=steps,
        lr=job["lr"],
        warmup=min(warmup, steps),
        seed=job["seed"],
        eval_every=max(1, steps // evaluations),
        progress=False,
        **others,
    )


def count(module: nn.Module) -> int:
    """Its parameters."""
    return sum(p.numel() for p in module.parameters())


class FusedGRU(GRU):
    """The library's GRU; its parallel form by torch's fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(1, len(x), self.d_model)
        weights = [self.input.weight, self.recurrent.weight, self.input.bias, self.recurrent.bias]
        return torch.gru(x, h, weights, True, 1, 0.0, self.training, False, True)[0]


def digits_parts(device: torch.device, size: int = 8) -> dict[str, tuple[Tensor, Tensor]]:
    """Images (rows, size, size) of pixels in [0, 1], and classes: one split for all experiments."""
    images, classes = digits(size)
    order = torch.tensor(np.random.default_rng(0).permutation(len(images)))
    rows = order.split(list(DIGITS_ROWS.values()))
    return {
        name: (images[at].to(device), classes[at].to(device))
        for name, at in zip(DIGITS_ROWS, rows, strict=True)
    }


def _work(task: tuple[Callable[[dict], dict], dict]) -> dict:
    run, job = task
    torch.set_num_threads(1)
    begin = time.perf_counter()
    result = run(job)
    return {**job, **result, "seconds": round(time.perf_counter() - begin, 1)}


def _told(arguments: Sequence[str]) -> list[str]:
    """A command line without the record's folder and the limit of time, which are one machine's."""
    kept = list(arguments)
    for name in ("--out", "--seconds"):
        if name in kept:
            at = kept.index(name)
            del kept[at : at + 2]
    return kept


class Runner:
    """Runs jobs, and keeps the record of an experiment.

    Args:
        name: of the record; a size other than "full" is appended.
        run: what a job gives, job → result.
        settings: what is the same for all jobs.
        options: of the command line, ``parser``'s.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[dict], dict],
        settings: dict[str, Any],
        options: argparse.Namespace,
    ) -> None:
        size = getattr(options, "size", "full")
        self.name = name if size == "full" else f"{name}_{size}"
        self.run, self.options = run, options
        before = self.before()
        seeds = {*options.seeds, *(before.settings.get("seeds", ()) if before else ())}
        self.settings = {**settings, "seeds": sorted(seeds)}

    def before(self) -> Record | None:
        """The record of a run that was stopped."""
        if (self.options.out / f"{self.name}.json").exists():
            return records.read(self.name, self.options.out)
        return None

    def __call__(self, jobs: Sequence[dict], workers: int | None = None) -> Record:
        """Each job in one of the processes; the record is written after each.

        Jobs that the record has results of are not run again. Returns the results of these jobs;
        the record keeps what it had of others, and its machines stay beside this one.
        """
        workers = workers or self.options.workers
        record, missing = self._begun(jobs)
        begin = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            new = pool.imap_unordered(_work, [(self.run, job) for job in missing])
            for done, result in enumerate(new, start=1):
                record = self._with(record, [result])
                if done % 10 == 0 or done == len(missing):
                    elapsed = time.perf_counter() - begin
                    print(f"{done}/{len(missing)} runs, {elapsed:.0f} s", flush=True)
            pool.close()
            pool.join()  # so that the processes clear up after themselves
        return replace(record, rows=tuple(row for job in jobs for row in _rows(record, job)))

    def together(self, jobs: Sequence[dict], key: Callable[[dict], Any]) -> Record:
        """As a call, in this process: jobs of equal keys go to ``run`` at once, as a list.

        It gives a list of results, or None where it has not the time.
        """
        record, missing = self._begun(jobs)
        groups: dict[Any, list[dict]] = {}
        for job in missing:
            groups.setdefault(key(job), []).append(job)
        for name, group in groups.items():
            begin = time.perf_counter()
            results = self.run(group)
            if results is not None:
                both = zip(group, results, strict=True)
                record = self._with(record, [{**job, **result} for job, result in both])
            print(name, len(group), "runs", results is not None, end=", ")
            print(f"{time.perf_counter() - begin:.0f} s", flush=True)
        return replace(record, rows=tuple(row for job in jobs for row in _rows(record, job)))

    def _begun(self, jobs: Sequence[dict]) -> tuple[Record, list[dict]]:
        """The record as it is, for this machine, and the jobs that it has no results of."""
        before = self.before()
        here = records.machine("cuda" if torch.cuda.is_available() else "cpu")
        machines = before.machines if before else ()
        record = Record(
            self.name,
            "python experiments/" + " ".join([Path(sys.argv[0]).name, *_told(sys.argv[1:])]),
            machines if here in machines else (*machines, here),
            self.settings,
            before.rows if before else (),
        )
        missing = [job for job in jobs if not _rows(record, job)]
        print(f"{len(missing)} runs, {len(jobs) - len(missing)} done before", flush=True)
        return record, missing

    def _with(self, record: Record, results: list[dict]) -> Record:
        """The record with these results, which is written."""
        rows = sorted((*record, *results), key=lambda row: json.dumps(row))
        record = replace(record, rows=tuple(rows))
        record.write(self.options.out)
        return record


def _rows(record: Record, job: dict) -> list:
    return [row for row in record if job.items() <= row.items()]


def beyond(best: float, rates: Iterable[float], more: Iterable[float]) -> list[float]:
    """The learning rates of ``more`` that lie beyond ``best``, if that is an end of ``rates``."""
    low, high = min(rates), max(rates)
    return [lr for lr in more if (best == low and lr < low) or (best == high and lr > high)]
