"""Outputs and gradients of every layer, model and scan of the contract, written to a file.

    python tests/fingerprint.py FILE THREADS

``test_same.py`` runs it in processes that differ in threads and instruction sets.
"""

import sys

import torch

from contract import CASES, inputs, make
from helpers import derivatives, lively


def main(file: str, threads: int) -> None:
    torch.set_num_threads(threads)
    found = {}
    for name in CASES:
        module = lively(make(name), 0.1, seed=5)
        y, gradients = derivatives(module, inputs(name, 2, 40))
        found[name] = [y.detach(), *(g.detach() for g in gradients)]
    torch.save(found, file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
