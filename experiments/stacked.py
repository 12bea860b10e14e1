"""Many small models of one shape, trained at once: a stack fills a GPU that one leaves idle.

Each model of a stack has its own start, its own batches, its own learning rate and its own
clipping: it is trained as ``linear_time.training.train`` trains it alone. On a GPU a whole update
of the stack is one CUDA graph.
"""

import copy
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from linear_time.recurrent import GRU
from linear_time.training import Config, learning_rate, parameter_groups

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's AdamW


class Stack:
    """Networks of one shape as one; ``stack(x: (networks, …))`` gives their outputs."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        parameters, buffers = stack_module_state(list(networks))
        assert not buffers
        self.parameters: dict[str, Tensor] = parameters
        self.frame = copy.deepcopy(networks[0])
        names = {id(p): name for name, p in networks[0].named_parameters()}
        self.groups = {
            names[id(p)]: group
            for group in parameter_groups(networks[0], 1.0, 1.0)
            for p in group["params"]
        }

    def __call__(self, x: Tensor) -> Tensor:
        def one(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            out: Tensor = functional_call(self.frame, parameters, (x,))
            return out

        return vmap(one)(self.parameters, x)


def train_stack(
    networks: Sequence[nn.Module],
    data: tuple[Tensor, Tensor],
    rows: Tensor,
    configs: Sequence[Config],
    seconds: float | None = None,
    after: Callable[[int, Stack], None] | None = None,
) -> tuple[Stack, Tensor] | None:
    """Train classifiers of one shape, each by its own config.

    Args:
        networks: of one shape, on the data's device.
        data: inputs and classes, (items, …) and (items,), or (items, answers) of several.
        rows: which items are in each batch, (steps, networks, batch).
        configs: that differ in their rates.
        seconds: it gives up, and returns None, if it would take longer.
        after: called after each update, with its number.

    Returns:
        The trained stack, and the losses before each update, (steps, networks). A network that
        diverged has the loss NaN from there on.
    """
    stack, (x, y), device = Stack(networks), data, data[0].device
    steps, many = configs[0].steps, len(networks)
    assert all(c.clip == configs[0].clip for c in configs) and len(rows) == steps
    decay = torch.tensor([c.weight_decay for c in configs], device=device)
    rates = [[learning_rate(step, c) for c in configs] for step in range(1, steps + 1)]
    rate, rows = torch.tensor(rates, device=device), rows.to(device)
    names, moments = list(stack.parameters), {}
    for name, p in stack.parameters.items():
        moments[name] = torch.zeros_like(p), torch.zeros_like(p)
    losses = torch.full((steps, many), float("nan"), device=device)
    done = torch.zeros(1, dtype=torch.int64, device=device)  # updates so far

    def update() -> None:
        at = rows.index_select(0, done)[0]  # (networks, batch)
        logits = stack(x[at])  # (networks, batch, classes), or (networks, batch, answers, classes)
        terms = nn.functional.cross_entropy(
            logits.flatten(0, -2), y[at].flatten(), reduction="none"
        ).view(many, -1)
        loss = terms.mean(1)
        grads = torch.autograd.grad(loss.sum(), [stack.parameters[n] for n in names])
        with torch.no_grad():
            squares = sum(g.flatten(1).square().sum(1) for g in grads)
            scale = (configs[0].clip / (squares.sqrt() + 1e-6)).clamp(max=1)
            lr = rate.index_select(0, done)[0]  # (networks,)
            k = done + 1
            first, second = 1 - BETAS[0] ** k, 1 - BETAS[1] ** k
            for name, g in zip(names, grads, strict=True):
                p, (m, v) = stack.parameters[name], moments[name]
                wide = (many, *[1] * (p.ndim - 1))
                g = g * scale.view(wide)
                own = (lr * stack.groups[name]["lr_scale"]).view(wide)
                p.mul_(1 - own * (decay * stack.groups[name]["weight_decay"]).view(wide))
                m.lerp_(g, 1 - BETAS[0])
                v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
                p.sub_(own / first * m / ((v / second).sqrt() + EPS))
            losses.index_copy_(0, done, loss.detach()[None])
            done.add_(1)

    replay = _graph(update, [*stack.parameters.values(), *sum(moments.values(), ()), done])
    begin = time.perf_counter()
    for step in range(1, steps + 1):
        replay()
        if after is not None:
            after(step, stack)
        if seconds is not None and step == 20:
            if device.type == "cuda":
                torch.cuda.synchronize()
            if (time.perf_counter() - begin) / step * steps > seconds:
                return None
    return stack, losses


def _graph(update: Callable[[], None], changed: list[Tensor]) -> Callable[[], None]:
    """The update as a CUDA graph; what it changes is put back after the trials."""
    if changed[0].device.type != "cuda":
        return update
    before = [t.detach().clone() for t in changed]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            update()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    with torch.no_grad():
        for t, old in zip(changed, before, strict=True):
            t.copy_(old)
    return graph.replay


class StackedGRU(GRU):
    """The library's GRU, for a stack: one step of all networks is one product and one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ValueError(f"x: expected (batch, length, d_model), got {tuple(x.shape)}")
        out: Tensor = _Steps.apply(self.input(x), self.recurrent.weight, self.recurrent.bias)
        return out


class _Steps(torch.autograd.Function):
    """The steps of a GRU, after Wx + b: under ``vmap``, of all networks at once."""

    @staticmethod
    def forward(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _StackedSteps.apply(u[None], weight[None], bias[None])[0]

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def vmap(info, in_dims, u, weight, bias):
        assert in_dims == (0, 0, 0)
        return _StackedSteps.apply(u, weight, bias), 0


class _StackedSteps(torch.autograd.Function):
    """h_t from u (networks, batch, length, 3 d), U (networks, 3 d, d) and c (networks, 3 d)."""

    @staticmethod
    def forward(ctx, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        u = u.permute(2, 0, 1, 3).contiguous()  # (length, networks, batch, 3 d)
        forward, _ = _kernels(u.device)
        h = u.new_zeros(*u.shape[1:3], weight.shape[2])
        states, recalled, U, c = [h], torch.empty_like(u), weight.mT, bias[:, None]
        for u_t, v_t in zip(u, recalled, strict=True):
            torch.baddbmm(c, h, U, out=v_t)
            h = forward(u_t, v_t, h)
            states.append(h)
        states = torch.stack(states)  # (length + 1, networks, batch, d)
        ctx.save_for_backward(u, weight, recalled, states)
        return states[1:].permute(1, 2, 0, 3)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, weight, recalled, states = ctx.saved_tensors
        gradient = gradient.permute(2, 0, 1, 3).contiguous()
        _, backward = _kernels(u.device)
        dh, du, dv = torch.zeros_like(states[0]), [], []
        for t in reversed(range(len(u))):
            du_t, dv_t, kept = backward(u[t], recalled[t], states[t], dh, gradient[t])
            dh = torch.baddbmm(kept, dv_t, weight)
            du.append(du_t)
            dv.append(dv_t)
        du = torch.stack(du[::-1]).permute(1, 2, 0, 3)
        dv = torch.stack(dv[::-1]).transpose(0, 1).flatten(1, 2)  # (networks, length·batch, 3 d)
        before = states[:-1].transpose(0, 1).flatten(1, 2)
        return du, dv.mT @ before, dv.sum(1)


def _forward(u: Tensor, v: Tensor, h: Tensor) -> Tensor:
    u_r, u_z, u_n = u.chunk(3, dim=-1)
    v_r, v_z, v_n = v.chunk(3, dim=-1)
    r, z = torch.sigmoid(u_r + v_r), torch.sigmoid(u_z + v_z)
    n = torch.tanh(u_n + r * v_n)
    return (1 - z) * n + z * h


def _backward(
    u: Tensor, v: Tensor, h: Tensor, later: Tensor, own: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    u_r, u_z, u_n = u.chunk(3, dim=-1)
    v_r, v_z, v_n = v.chunk(3, dim=-1)
    r, z = torch.sigmoid(u_r + v_r), torch.sigmoid(u_z + v_z)
    n = torch.tanh(u_n + r * v_n)
    dh = later + own
    d_n = dh * (1 - z) * (1 - n * n)
    d_z = dh * (h - n) * z * (1 - z)
    d_r = d_n * v_n * r * (1 - r)
    return (
        torch.cat([d_r, d_z, d_n], dim=-1),
        torch.cat([d_r, d_z, d_n * r], dim=-1),
        dh * z,
    )


_made: dict[str, tuple[Callable, Callable]] = {}


def _kernels(device: torch.device) -> tuple[Callable, Callable]:
    """The cell and its gradient; on a GPU each is one kernel, where torch can compile it."""
    if device.type not in _made:
        pair = _forward, _backward
        if device.type == "cuda":
            try:
                pair = tuple(torch.compile(f, dynamic=False) for f in pair)
                u, h = torch.zeros(1, 2, 6, device=device), torch.zeros(1, 2, 2, device=device)
                pair[0](u, u, h), pair[1](u, u, h, h, h)
            except Exception as error:
                print(f"the cell is not compiled: {error}", flush=True)
                pair = _forward, _backward
        _made[device.type] = pair
    return _made[device.type]
