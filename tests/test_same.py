"""The same everywhere: twice, on one and two threads, with old instruction sets."""

import os
import subprocess
import sys

import pytest
import torch

from book import ROOT
from contract import CASES

OLD = {
    **{"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    **{"OPENBLAS_CORETYPE": "Prescott", "MKL_CBWR": "COMPATIBLE"},
}
SETTINGS: dict[str, tuple[dict[str, str], int]] = {
    "plain": ({}, 1),
    "again": ({}, 1),
    "two threads": ({"OMP_NUM_THREADS": "2"}, 2),
    "old instructions": (OLD, 1),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every setting gives, by a process of its own."""
    folder = tmp_path_factory.mktemp("same")
    source = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    for name, (changes, threads) in SETTINGS.items():
        command = [sys.executable, str(ROOT / "tests" / "fingerprint.py"), str(folder / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, **changes}
        done = subprocess.run(
            [*command, str(threads)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return {name: torch.load(folder / name, weights_only=True) for name in SETTINGS}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_the_same_everywhere(found, name):
    """Twice to the last bit; elsewhere to rounding, which adds up over sums in another order."""
    plain = found["plain"][name]
    for one, other in zip(plain, found["again"][name], strict=True):
        assert torch.equal(one, other)
    for setting in ("two threads", "old instructions"):
        largest = max(one.abs().max().item() for one in plain)
        for one, other in zip(plain, found[setting][name], strict=True):
            assert one.isfinite().all()
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5 * max(1.0, largest))


def test_the_old_instructions_are_taken(found):
    """Otherwise the comparison above would compare nothing."""
    program = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, env={**os.environ, **OLD}, capture_output=True, text=True)
    assert told.stdout.strip() == "DEFAULT"
