"""Every layer and model of the contract on a GPU: float32 and bfloat16, both forms, generation.

Skips where there is none. Run it on a machine that has one: ``pytest tests/test_gpu.py``.
"""

import copy

import pytest
import torch

from contract import CASES, cast, inputs, make, tensors
from helpers import derivatives, stepped
from linear_time import checks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = torch.device("cuda")
every = pytest.mark.parametrize("name", CASES)
stateful = pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if c.kind in ("mixer", "model")]
)
both = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 0.15)], ids=str
)


@every
@both
def test_forward_and_backward_are_the_cpus(name, dtype, tolerance):
    module, values = make(name).to(dtype), cast(inputs(name, 2, 33), dtype)
    exact, slopes = derivatives(copy.deepcopy(module).double(), cast(values, torch.float64))
    wanted = [exact, *slopes]
    y, gradients = derivatives(module.to(DEVICE), cast(values, DEVICE))
    found = [y, *gradients]
    assert found[0].dtype == dtype and {t.device.type for t in found} == {"cuda"}
    least = 1e-2 * max(w.abs().max().item() for w in wanted[1:])
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        scale = other.abs().max().item() if index == 0 else max(other.abs().max().item(), least)
        allowed = tolerance if index == 0 else 2 * tolerance  # of gradients
        assert (one.cpu().double() - other).abs().max().item() <= allowed * scale


@every
def test_autocast(name):
    module, values = make(name), inputs(name, 2, 33)
    wanted, _ = derivatives(copy.deepcopy(module).double(), cast(values, torch.float64))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y, _ = derivatives(module.to(DEVICE), cast(values, DEVICE))
    assert (y.cpu().double() - wanted).abs().max() <= 0.15 * wanted.abs().max()


@stateful
@both
@torch.no_grad()
def test_steps_and_prefill(name, dtype, tolerance):
    module = make(name).to(dtype)
    (values,) = cast(inputs(name, 2, 4), dtype)
    wanted = copy.deepcopy(module).double()(*cast((values,), torch.float64))
    module = module.to(DEVICE)
    values = values.to(DEVICE)
    state = module.initial_state(2)
    assert {t.device.type for t in tensors(state)} <= {"cuda"}
    outputs, state = stepped(module, values, state)
    assert {t.device.type for t in tensors(state)} == {"cuda"}
    found = outputs.cpu().double()
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()
    y, _ = module.prefill(values)
    last = wanted[:, -1] if CASES[name].kind == "model" else wanted
    assert (y.cpu().double() - last).abs().max() <= tolerance * last.abs().max()


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.kind == "model"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_generation(name, dtype):
    model = make(name).to(DEVICE, dtype)
    prompt = inputs(name, 2, 6)[0].to(DEVICE)
    out = model.generate(prompt, 5)
    assert out.shape == (2, 11) and out.device.type == "cuda" and out.max() < model.vocab_size
    mask = torch.ones(2, 6, dtype=torch.bool, device=DEVICE)
    mask[1, :2] = False
    padded = model.generate(prompt, 3, temperature=0, mask=mask)
    alone = model.generate(prompt[1:, 2:], 3, temperature=0)
    if dtype == torch.float32:
        assert torch.equal(padded[1, 6:], alone[0, 4:])


@every
def test_no_check_waits_for_the_gpu(name):
    """In a training step, with value checks off: no synchronisation."""
    module, values = make(name).to(DEVICE), cast(inputs(name, 2, 33), DEVICE)
    with checks(values=False):
        derivatives(module, values)  # what is made once is made
        torch.cuda.set_sync_debug_mode("error")
        try:
            derivatives(module, values)
        finally:
            torch.cuda.set_sync_debug_mode("default")
