"""The contract of a layer (see ``linear_time.mixer``), asked of every layer, model and scan.

One table: layers × properties; it is printed at the end of the run. What a case is and how it is
made stands in ``contract.py``.
"""

import copy
import inspect
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from contract import CASES, cast, inputs, make, tensors
from helpers import NoFloat64, derivatives, lively, stepped
from linear_time import checks

HALVES = [torch.bfloat16, torch.float16]
every = pytest.mark.parametrize("name", CASES)
mixers = pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.kind == "mixer"])
models = pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.kind == "model"])
stateful = pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if c.kind in ("mixer", "model")]
)


@pytest.fixture
def says(record_property):
    """Enter a word for the layer and the property in the table that ``conftest`` prints."""
    return lambda word="yes": record_property("contract", word)


def far(one: Tensor, other: Tensor, least: float = 0.0) -> float:
    """The largest difference, relative to the largest entry of the other (or to ``least``)."""
    scale = max(other.abs().max().item(), least)
    return (one.double() - other).abs().max().item() / scale


def farthest(gradients: list[Tensor], wanted: list[Tensor]) -> float:
    """The same of several; the bias of keys, for one, has a gradient of nothing but rounding."""
    least = 1e-2 * max(w.abs().max().item() for w in wanted)
    return max(far(g, w, least) for g, w in zip(gradients, wanted, strict=True))


# --- precision -----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half(name, dtype, says):
    """Output and gradients are those of float64 for the same numbers, to a few roundings."""
    module, values = lively(make(name), 0.1, seed=5).to(dtype), cast(inputs(name, 2, 33), dtype)
    y, gradients = derivatives(module, values)
    assert y.dtype == dtype
    exact, wanted = derivatives(copy.deepcopy(module).double(), cast(values, torch.float64))
    eps = torch.finfo(dtype).eps
    assert far(y, exact) < 12 * eps
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert farthest(gradients, wanted) < 40 * eps
    says()


@every
def test_autocast(name, monkeypatch, says):
    """And no layer asks what torch 2.11 does not compile."""
    monkeypatch.delattr(torch.amp, "is_autocast_available")
    module, values = lively(make(name), 0.1, seed=5), inputs(name, 2, 33)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, gradients = derivatives(module, values)
    exact, wanted = derivatives(copy.deepcopy(module).double(), cast(values, torch.float64))
    eps = torch.finfo(torch.bfloat16).eps
    assert far(y, exact) < 12 * eps
    assert farthest(gradients, wanted) < 60 * eps
    says()


@stateful
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@torch.no_grad()
def test_step_in_half(name, dtype, says):
    if not hasattr(module := lively(make(name), 0.1, seed=5).to(dtype), "initial_state"):
        pytest.skip("no steps")
    (values,) = cast(inputs(name, 2, 33), dtype)
    if name == "PerceiverAR":
        values = values[:, :4]  # beyond its latents, steps have more latents than forward
    y, _ = stepped(module, values, module.initial_state(2))
    exact = copy.deepcopy(module).double()(*cast((values,), torch.float64))
    assert y.dtype == dtype and far(y, exact) < 20 * torch.finfo(dtype).eps
    says()


#: The states that grow hold keys and values, which are rounded as the layer's outputs are.
CACHES = ("Attention", "attention", "Llama", "PerceiverAR")


@stateful
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_first_state_is_full(name, dtype, says):
    """Before any step: a promotion inside the first step must not hide a state that starts low."""
    module = make(name).to(dtype)
    given = {} if CASES[name].kind == "model" else {"dtype": dtype}
    for state in (module.initial_state(2), module.initial_state(2, **given)):
        for tensor in tensors(state):
            if tensor.is_floating_point() or tensor.is_complex():
                low = any(word in name for word in CACHES)
                assert low or tensor.dtype.to_real() == torch.float32
    says()


def first_states(name: str, module: nn.Module, **given: object) -> list[Tensor]:
    """The tensors of the state before any step."""
    found = tensors(module.initial_state(2, **given))
    assert found or name == "PerceiverAR"
    return found


@stateful
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_first_state_has_the_dtype(name, dtype, says):
    """The parameters' own, or the one asked for; not the default's, and not one of a table."""
    module = make(name).to(dtype)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    for given in ({}, {"dtype": other}):
        if given and CASES[name].kind == "model":
            continue
        for tensor in first_states(name, module, **given):
            if tensor.is_floating_point() or tensor.is_complex():
                assert tensor.dtype.to_real() == given.get("dtype", dtype)
    says()


@stateful
def test_first_state_is_on_the_device(name, says):
    """Before any step, which would move it: where the parameters are, or where asked."""
    meta = torch.device("meta")
    for module, given in ((make(name).to(meta), {}), (make(name), {"device": meta})):
        if given and CASES[name].kind == "model":
            continue
        assert {t.device for t in first_states(name, module, **given)} <= {meta}
    says()


@stateful
def test_first_state_is_of_the_batch(name, says):
    """Each row has its own, and a second call another: none is written to by the first."""
    module = make(name)
    for batch in (1, 3):
        for tensor in tensors(module.initial_state(batch)):
            assert tensor.ndim == 0 or batch in tensor.shape
    one, other = (tensors(module.initial_state(2)) for _ in range(2))
    places = {t.untyped_storage().data_ptr() for t in one if t.numel()}
    assert not places & {t.untyped_storage().data_ptr() for t in other if t.numel()}
    says()


@every
def test_dtype_of_float32_and_float64(name, says):
    for dtype in (torch.float32, torch.float64):
        y, gradients = derivatives(make(name).to(dtype), cast(inputs(name), dtype))
        assert y.dtype == dtype and {g.dtype for g in gradients} == {dtype}
    says()


# --- derivatives ---------------------------------------------------------------------------------


def directional(module: nn.Module, values: tuple, at: list[Tensor], along: list[Tensor], weight):
    """The second derivative of the weighted output along a direction, by autograd."""
    y = module(*values)
    total = y.sum() if weight is None else (y * weight).sum()
    first = torch.autograd.grad(total, at, create_graph=True)
    slope = sum((g * v).sum() for g, v in zip(first, along, strict=True))
    if not slope.requires_grad:
        return [torch.zeros_like(a) for a in at]
    second = torch.autograd.grad(slope, at, allow_unused=True)
    return [torch.zeros_like(a) if s is None else s for a, s in zip(at, second, strict=True)]


@every
@pytest.mark.parametrize("weighted", [False, True], ids=["sum", "weighted"])
def test_second_derivatives(name, weighted, says):
    """Right, by finite differences of the first, or refused; a plain sum's gradient is constant."""
    module = lively(make(name), 0.1, seed=5).double()
    values = tuple(
        v.requires_grad_() if v.is_floating_point() else v
        for v in cast(inputs(name, 2, 5), torch.float64)
    )
    at = [v for v in values if v.requires_grad] or [next(module.parameters())]
    generator = torch.Generator().manual_seed(6)
    along = [torch.randn(a.shape, generator=generator, dtype=a.dtype) for a in at]
    weight = None
    if weighted:
        y = module(*values)
        weight = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    if not CASES[name].twice:
        with pytest.raises(RuntimeError, match=r"once|twice|second"):
            directional(module, values, at, along, weight)
        says("refused")
        return
    second = directional(module, values, at, along, weight)

    def first(sign: int) -> list[Tensor]:
        with torch.no_grad():
            for a, v in zip(at, along, strict=True):
                a += sign * 2e-6 * v
        y = module(*values)
        total = y.sum() if weight is None else (y * weight).sum()
        gradients = torch.autograd.grad(total, at)
        with torch.no_grad():
            for a, v in zip(at, along, strict=True):
                a -= sign * 2e-6 * v
        return list(gradients)

    for s, high, low in zip(second, first(1), first(-1), strict=True):
        wanted = (high - low) / 4e-6
        assert (s - wanted).abs().max() <= 1e-5 * wanted.abs().max() + 1e-7
    says()


@every
def test_functional_gradients(name, says):
    """``torch.func.grad`` and ``vmap`` agree with a loop over autograd, or say that they do not."""
    module = lively(make(name), 0.1, seed=5).double()
    values = cast(inputs(name, 3, 5), torch.float64)
    parameters = dict(module.named_parameters())
    if not parameters:
        pytest.skip("no parameters")

    def loss(parameters, *row):
        row = [r[None] for r in row]
        return torch.func.functional_call(module, parameters, tuple(row)).sin().sum()

    try:
        with checks(values=False):
            rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *[0] * len(values)))
            together = rows(parameters, *values)
    except RuntimeError as error:
        assert "vmap" in str(error) or "functorch" in str(error) or "setup_context" in str(error)
        says("refused")
        return
    for i in range(3):
        one = loss(parameters, *(v[i] for v in values))
        gradients = torch.autograd.grad(one, list(parameters.values()))
        for key, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(together[key][i], gradient, rtol=1e-8, atol=1e-10)
    says()


# --- compilers -----------------------------------------------------------------------------------

compiled = pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.compiles])


@pytest.fixture(scope="module")
def compilers():
    """What became of every case, compiled and exported without the runtime check of shapes."""
    script = Path(__file__).with_name("compile_cases.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@compiled
def test_compiles_whole(name, compilers, says):
    """``torch.compile(fullgraph=True)``, forward and backward, with value checks off."""
    assert compilers[name]["compile"] == "equal"
    says()


@compiled
def test_exports(name, compilers, says):
    assert compilers[name]["export"] == "equal"
    says()


# --- checks --------------------------------------------------------------------------------------


@pytest.fixture
def searches(monkeypatch):
    """How often values are searched."""
    count = []
    real = torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda x: (count.append(1), real(x))[1])
    return count


@every
def test_searches_once(name, searches, says):
    """The outermost call searches each input once; none is searched with the switch off."""
    module, values = make(name), inputs(name)
    module(*values)
    floating = sum(v.is_floating_point() for v in values)
    assert len(searches) <= floating + (name in ("selective_scan", "selective_scan_reference"))
    searches.clear()
    with checks(values=False):
        module(*values)
    assert not searches
    says()


@stateful
def test_step_searches_nothing(name, searches, says):
    module, (values,) = make(name), inputs(name)
    state = module.initial_state(2)
    searches.clear()
    module.step(values[:, 0], state)
    assert not searches
    says()


# --- states --------------------------------------------------------------------------------------


@mixers
@torch.no_grad()
def test_state_holds_what_it_counts(name, says):
    """Of a prompt of 300, a fixed state keeps its own numbers; a cache at most twice as many."""
    module, (x,) = make(name), inputs(name, 2, 300)
    _, state = module.prefill(x)
    most = 2.2 if any(word in name for word in CACHES) else 1.0
    for tensor in tensors(state):
        assert tensor.untyped_storage().nbytes() <= most * tensor.numel() * tensor.itemsize
    buffer = io.BytesIO()
    torch.save(state, buffer)
    counted = sum(t.numel() * t.itemsize for t in tensors(module.prefill(x)[1]))
    assert len(buffer.getvalue()) < most * counted + 4000
    says()


@every
@torch.no_grad()
def test_output_is_compact(name, says):
    y = make(name)(*inputs(name, 2, 100))
    assert y.untyped_storage().nbytes() == y.numel() * y.itemsize
    says()


@stateful
@torch.no_grad()
def test_prefill_is_steps(name, says):
    module = lively(make(name), 0.1, seed=5).double()
    (values,) = cast(inputs(name, 2, 12), torch.float64)
    if name == "PerceiverAR":
        values = values[:, :4]
    cut = values.shape[1] // 2
    whole, state = stepped(module, values, module.initial_state(2))
    y, middle = module.prefill(values[:, :cut])
    z, last = module.prefill(values[:, cut:], middle)
    if CASES[name].kind == "model":
        torch.testing.assert_close(y, whole[:, cut - 1])
        torch.testing.assert_close(z, whole[:, -1])
    else:
        torch.testing.assert_close(torch.cat([y, z], 1), whole, rtol=1e-9, atol=1e-9)
    for one, other in zip(tensors(last), tensors(state), strict=True):
        if one.shape == other.shape:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    says()


@stateful
@torch.no_grad()
def test_state_may_branch(name, says):
    """Two continuations of one state do not see each other."""
    module = lively(make(name), 0.1, seed=5).double()
    (values,) = cast(inputs(name, 2, 6), torch.float64)
    _, state = module.prefill(values[:, :3])
    kept = [t.clone() for t in tensors(state)]
    alone, _ = stepped(module, values[:, 3:5], state)
    stepped(module, values[:, [5, 4]], state)  # another branch, in between
    again, _ = stepped(module, values[:, 3:5], state)
    assert torch.equal(alone, again)
    for one, other in zip(tensors(state), kept, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    _, first = module.step(values[:, 3], state)
    _, second = module.step(values[:, 5], state)
    torch.testing.assert_close(module.step(values[:, 4], first)[0], alone[:, 1], rtol=0, atol=0)
    assert not torch.equal(module.step(values[:, 4], second)[0], alone[:, 1])
    says()


@stateful
@torch.no_grad()
def test_step_follows_the_parameters(name, says):
    """What is made once for all steps is made again when a parameter has changed in any way."""
    module = make(name).double()
    (values,) = cast(inputs(name, 2, 4), torch.float64)

    def agree() -> None:
        y, _ = stepped(module, values, module.initial_state(2))
        torch.testing.assert_close(y, module(values), rtol=1e-9, atol=1e-9)

    agree()
    for parameter in module.parameters():  # as an optimizer does
        parameter.mul_(1.1)
    agree()
    for parameter in module.parameters():
        parameter.data = parameter.data * 0.9
    agree()
    state = {key: value * 1.05 for key, value in module.state_dict().items()}
    module.load_state_dict(state)
    agree()
    module.load_state_dict({k: v * 1.05 for k, v in state.items()}, assign=True)
    agree()
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        parameter.add_(0.01)
    agree()
    module = module.float()
    values = values.float() if values.is_floating_point() else values
    y, _ = stepped(module, values, module.initial_state(2))
    torch.testing.assert_close(y, module(values), rtol=1e-3, atol=1e-4)
    says()


# --- padding -------------------------------------------------------------------------------------


@stateful
@torch.no_grad()
def test_padding_at_the_left_changes_nothing(name, says):
    module = lively(make(name), 0.1, seed=5).double()
    (values,) = cast(inputs(name, 3, 7), torch.float64)
    if name == "PerceiverAR":
        values = values[:, :4]
    length = values.shape[1]
    real = [length, length - 3, 1]  # positions that are no padding, row by row
    mask = torch.arange(length) >= length - torch.tensor(real)[:, None]
    padded = values.clone()
    padded[~mask] = 3 if not values.is_floating_point() else 1e3
    y = module(padded, mask=mask)
    _, state = module.prefill(padded, mask=mask)
    after = values[:, 0]
    following, _ = module.step(after, state)
    for row, n in enumerate(real):
        alone = values[row : row + 1, length - n :]
        torch.testing.assert_close(y[row, -n:], module(alone)[0][-n:], rtol=1e-9, atol=1e-9)
        _, own = module.prefill(alone)
        one, _ = module.step(after[row : row + 1], own)
        torch.testing.assert_close(following[row], one[0], rtol=1e-9, atol=1e-9)
    says()


@models
def test_generation_from_padded_prompts(name, says):
    model = lively(make(name), 0.1, seed=5).double()
    prompts = inputs(name, 2, 6)[0]
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :3] = False
    out = model.generate(prompts, 4, temperature=0, mask=mask)
    for row, begin in ((0, 0), (1, 3)):
        alone = model.generate(prompts[row : row + 1, begin:], 4, temperature=0)
        assert torch.equal(out[row, 6:], alone[0, -4:])
    assert not out.requires_grad
    says()


@stateful
@pytest.mark.bad_input
def test_another_batchs_mask_is_refused(name, says):
    module, (values,) = make(name), inputs(name, 2, 5)
    for wrong, kind in (
        (torch.ones(1, 5, dtype=torch.bool), ValueError),
        (torch.ones(3, 5, dtype=torch.bool), ValueError),
        (torch.ones(2, 4, dtype=torch.bool), ValueError),
        (torch.ones(5, dtype=torch.bool), ValueError),
        (torch.ones(2, 5), TypeError),
        (torch.tensor([[True] * 5, [True, False, True, True, True]]), ValueError),
        (torch.tensor([[True] * 5, [False] * 5]), ValueError),
    ):
        for call in (module, module.prefill):
            with pytest.raises(kind, match=r"^mask: expected"):
                call(values, mask=wrong)
    says()


# --- sizes, strides, devices ---------------------------------------------------------------------


@every
@pytest.mark.bad_input
def test_sizes_may_be_numpys(name, says):
    ours, theirs = make(name), make(name, np.int64)
    values = inputs(name)
    assert torch.equal(ours(*values), theirs(*values))
    says()


@every
@torch.no_grad()
def test_smallest_and_strided(name, says):
    """One row and one position; inputs that are expanded, or turned in memory."""
    module = make(name)
    y = module(*inputs(name, 1, 1))
    assert y.isfinite().all()
    values = inputs(name, 3, 9)
    expected = module(*values)
    turned = tuple(v.transpose(0, -1).contiguous().transpose(0, -1) for v in values)
    torch.testing.assert_close(module(*turned), expected, rtol=1e-4, atol=1e-5)
    if CASES[name].kind == "function":
        return says()
    same = tuple(v[:1].expand(v.shape) for v in values)
    rows = module(*same)
    torch.testing.assert_close(rows, rows[:1].expand(rows.shape), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows[:1], module(*(v[:1] for v in values)), rtol=1e-4, atol=1e-5)
    return says()


@every
def test_no_float64_on_the_device(name, says):
    """As on Apple's GPUs; "meta" stands for such a device."""
    module, values = make(name).to("meta"), cast(inputs(name), torch.device("meta"))
    with checks(values=False), NoFloat64("meta"):
        y = module(*values)
        assert y.device.type == "meta"
        if CASES[name].kind == "mixer":
            module.step(values[0][:, 0], module.initial_state(2))
    says()


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_parameters_share_no_memory(name, dtype, says):
    """Also where torch's default dtype is the one that a cast would have changed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module = make(name)
    finally:
        torch.set_default_dtype(before)
    found = {}
    for key, parameter in module.named_parameters():
        assert parameter.dtype == dtype, key
        place = parameter.untyped_storage().data_ptr()
        assert place not in found, (key, found.get(place))
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.itemsize
        found[place] = key
    says()


#: The weights that are meant to be two names of one tensor.
TIED = {"head.weight", "embedding.weight"}


@every
def test_no_weight_is_shared_by_mistake(name, says):
    """No parameter and no module has two names, but the head that is the embedding."""
    module = make(name)
    names = dict(module.named_parameters())
    twice = {k for k, _ in module.named_parameters(remove_duplicate=False) if k not in names}
    assert twice <= TIED
    modules = dict(module.named_modules())
    again = {k for k, _ in module.named_modules(remove_duplicate=False) if k not in modules}
    assert not again
    says()


@every
def test_no_two_weights_start_alike(name, says):
    """Matrices drawn at random differ: no block is a copy of another's start."""
    weights = {}
    for key, parameter in make(name).named_parameters():
        values = parameter.detach().flatten()
        if parameter.ndim < 2 or len(values.unique()) < len(values) / 2:
            continue  # a bias, zeros, or a table that is the same for all
        if key.rpartition(".")[2] in ("log_decay", "frequency", "A_log", "log_A_real", "A_imag"):
            continue  # the system that every channel starts from
        for other, seen in weights.items():
            assert seen.shape != values.shape or not torch.equal(seen, values), (key, other)
        weights[key] = values
    says()


@every
def test_a_gradient_is_added_to_what_is_there(name, says):
    """Twice backward gives twice the gradients: none is written over, none is kept by the layer."""
    module, values = lively(make(name), 0.1, seed=5), inputs(name)
    leaves = [v.requires_grad_() if v.is_floating_point() else v for v in values]
    asked = [v for v in leaves if v.requires_grad] + list(module.parameters())
    once = []
    for _ in range(2):
        y = module(*leaves)
        y.backward(torch.ones(()).expand(y.shape))  # one number in memory, for all entries
        once = once or [p.grad.clone() for p in asked]
    for parameter, first in zip(asked, once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * first, rtol=1e-5, atol=1e-6)
    says()


@models
def test_a_fresh_model_knows_nothing(name, says):
    """Its first loss is that of equal chances, ln V, and hardly more: embeddings and heads are
    scaled for it."""
    module = make(name)
    tokens = inputs(name, 64, 12)[0]
    logits = module(tokens)
    loss = nn.functional.cross_entropy(logits[:, :-1].mT, tokens[:, -logits.shape[1] :][:, 1:])
    assert abs(loss.item() - math.log(logits.shape[-1])) < 0.5
    says()


# --- modes ---------------------------------------------------------------------------------------


@models
def test_generation_keeps_no_graph(name, says):
    model, (prompt,) = make(name), inputs(name, 2, 4)
    seen = []
    hook = model.norm.register_forward_hook(lambda m, i, o: seen.append(o.requires_grad))
    out = model.generate(prompt, 3)
    hook.remove()
    assert not out.requires_grad and seen and not any(seen)
    says()


@pytest.fixture(scope="module")
def one_process():
    """A group of one process, enough for torch's sharding to wrap a module."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@models
def test_blocks_may_be_sharded(name, one_process, says):
    """``fully_shard`` on every block: the model calls no inside of a block past the block."""
    model, (values,) = make(name), inputs(name)
    if not hasattr(model, "blocks"):
        pytest.skip("no blocks")
    wanted = model(values)
    for block in model.blocks:
        fully_shard(block, mesh=one_process)
    y = model(values)
    assert torch.equal(y, wanted)
    y.sum().backward()
    assert all(p.grad is not None for p in model.blocks[0].parameters() if p.requires_grad)
    says()


@every
def test_inputs_are_left_as_they_are(name, says):
    """Neither the inputs nor the incoming gradient are written to."""
    module, values = make(name), inputs(name)
    kept = [v.clone() for v in values]
    leaves = [v.requires_grad_() if v.is_floating_point() else v for v in values]
    y = module(*leaves)
    upstream = torch.linspace(-1, 1, y.numel()).view(y.shape)
    copied = upstream.clone()
    y.backward(upstream)
    assert torch.equal(upstream, copied)
    assert all(torch.equal(v, k) for v, k in zip(values, kept, strict=True))
    says()


def test_every_public_layer_is_a_case():
    """A layer that is not in CASES is not held to the contract."""
    from linear_time.compression import Compressor
    from linear_time.mixer import LanguageModel, SequenceMixer

    def below(kind: type) -> set[type]:
        return {c for one in kind.__subclasses__() for c in (one, *below(one))}

    found = below(SequenceMixer) | below(Compressor) | below(LanguageModel)
    public = {
        c.__name__
        for c in found
        if c.__module__.startswith("linear_time.")
        and "exercises" not in c.__module__
        and not c.__name__.startswith("_")
        and not inspect.isabstract(c)
    }
    missing = public - {name.split(",")[0] for name in CASES} - {"DHENLayer", "SequenceMixer"}
    assert not missing
