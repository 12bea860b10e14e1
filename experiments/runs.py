"""What the experiments share: jobs in parallel, and a result file that says how it was made."""

import datetime
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linear_time import checks

RESULTS = Path(__file__).parent / "results"


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
    graph: nn.Module = torch.cuda.make_graphed_callables(
        network.train(), (tokens,), allow_unused_input=True
    )
    return graph


def machine() -> dict[str, Any]:
    """The machine and the versions, without a name or a path of its own."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"CPU, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _work(task: tuple[Callable[[dict], dict], dict]) -> dict:
    run, job = task
    torch.set_num_threads(1)
    begin = time.perf_counter()
    result = run(job)
    return {**job, **result, "seconds": round(time.perf_counter() - begin, 1)}


def run_all(
    run: Callable[[dict], dict],
    jobs: Sequence[dict],
    workers: int,
    name: str,
    settings: dict,
    out: str | None = None,
) -> list[dict]:
    """Each job in one of ``workers`` processes; the record is written after each run.

    Jobs that the record has results of, from a run that was stopped, are not run again. Returns
    the results of these jobs; the record keeps what it had of others.
    """
    context = multiprocessing.get_context("spawn")
    results, begin = recorded(name, out)["runs"], time.perf_counter()

    def found(job: dict) -> list[dict]:
        return [result for result in results if job.items() <= result.items()]

    missing = [job for job in jobs if not found(job)]
    print(f"{len(missing)} runs, {len(jobs) - len(missing)} done before", flush=True)
    with context.Pool(workers) as pool:
        new = pool.imap_unordered(_work, [(run, job) for job in missing])
        for count, result in enumerate(new, start=1):
            results.append(result)
            write(name, settings, sorted(results, key=lambda r: json.dumps(r)), out)
            if count % 10 == 0 or count == len(missing):
                elapsed = time.perf_counter() - begin
                print(f"{count}/{len(missing)} runs, {elapsed:.0f} s", flush=True)
    return [result for job in jobs for result in found(job)]


def chosen(results: Sequence[dict], key: str) -> list[dict]:
    """The runs, one a seed, of the learning rate with the least mean of ``key``.

    Runs that diverged have None there and do not count, and nor do rates with fewer seeds left.
    """
    by_rate: dict[float, list[dict]] = {}
    for result in results:
        if result[key] is not None:
            by_rate.setdefault(result["lr"], []).append(result)
    most = max(map(len, by_rate.values()), default=0)
    complete = [group for group in by_rate.values() if len(group) == most]
    return min(complete, key=lambda group: statistics.mean(r[key] for r in group), default=[])


def beyond(best: float, rates: Sequence[float], more: Sequence[float]) -> list[float]:
    """The learning rates of ``more`` that lie beyond ``best``, if that is an end of ``rates``."""
    low, high = min(rates), max(rates)
    return [lr for lr in more if (best == low and lr < low) or (best == high and lr > high)]


def sized(name: str, size: str) -> str:
    """The name of a record of this size."""
    return name if size == "full" else f"{name}_{size}"


def recorded(name: str, out: str | None = None) -> dict[str, Any]:
    """The record that ``write`` left, or an empty one."""
    path = (Path(out) if out else RESULTS) / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {"machines": [], "runs": []}


def write(name: str, settings: dict, results: list[dict], out: str | None = None) -> None:
    """``results/name.json``: the command, the settings, the machines and every run.

    A record that is there already is resumed: its machines stay beside this one.
    """
    command = "python experiments/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    machines = recorded(name, out)["machines"]
    if machine() not in machines:
        machines.append(machine())
    record = {"command": command, "machines": machines, "settings": settings, "runs": results}
    path = (Path(out) if out else RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("    " + json.dumps(result) for result in results)
    head = json.dumps({k: v for k, v in record.items() if k != "runs"}, indent=2)
    path.write_text(head[:-2] + ',\n  "runs": [\n' + lines + "\n  ]\n}\n")
