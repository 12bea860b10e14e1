"""Stacks of networks: the end of a run, what is told after each update, and a GPU that is played.

That a stack trains as its networks do alone is asked in ``test_sequential_digits.py``.
"""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from book import experiment
from linear_time.recurrent import GRU
from linear_time.training import Config, train

CUDA = SimpleNamespace(type="cuda")
F64 = torch.float64


@pytest.fixture
def stacked(monkeypatch):
    script = experiment("stacked")
    monkeypatch.setattr(script, "_made", {})
    return script


def networks(n=2):
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        made.append(nn.Linear(3, 4))
    return made


def given(steps, n=2, answers=None, seed=3):
    """Inputs, classes, and which rows are in each batch."""
    g = torch.Generator().manual_seed(seed)
    shape = (20,) if answers is None else (20, answers)
    data = torch.randn(20, 3, generator=g), torch.randint(4, shape, generator=g)
    return data, torch.randint(20, (steps, n, 5), generator=g)


def configs(steps, n=2):
    return [Config(steps=steps, lr=1e-2 * (i + 1), warmup=min(2, steps)) for i in range(n)]


def test_a_stack_is_trained_as_each_alone(stacked):
    """Of its own rate and decay, clipped alone; what is told after each update is the stack."""
    (x, y), rows = given(7)
    settings = [
        Config(steps=7, lr=lr, warmup=2, weight_decay=decay, clip=0.3, progress=False)
        for lr, decay in ((1e-2, 0.5), (3e-2, 0.0))
    ]
    told = []
    made = networks()
    stack, losses = stacked.train_stack(
        made,
        (x, y),
        rows,
        settings,
        after=lambda step, own: told.append((step, own.parameters["weight"].shape)),
    )
    assert told == [(step, (2, 4, 3)) for step in range(1, 8)]
    for i, network in enumerate(networks()):
        history = train(
            network,
            lambda _, i=i: ((x[at], y[at]) for at in rows[:, i]),
            lambda net, b: nn.functional.cross_entropy(net(b[0]), b[1], reduction="none"),
            settings[i],
        )
        assert history.grad_norm.max() > 0.3
        assert abs(history.loss - losses[:, i].numpy()).max() < 1e-6
        for key, p in network.named_parameters():
            torch.testing.assert_close(stack.parameters[key][i], p, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stack(x.expand(2, 20, 3))[1], network(x))


def test_several_answers_of_a_sequence_are_one_loss(stacked):
    """(items, answers) of classes: the mean over both."""

    class Twice(nn.Module):
        def __init__(self, one):
            super().__init__()
            self.one = one

        def forward(self, x):
            return torch.stack([self.one(x), self.one(-x)], -2)

    (x, y), rows = given(1, answers=2)
    made = [Twice(m) for m in networks()]
    wanted = []
    for at, network in zip(rows[0], made, strict=True):
        logits = network(x[at])
        terms = nn.functional.cross_entropy(logits.flatten(0, 1), y[at].flatten())
        wanted.append(terms.item())
    _, losses = stacked.train_stack(made, (x, y), rows, configs(1)[:2])
    assert losses[0].tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_stack_that_would_be_late_is_given_up_after_20_updates(stacked, monkeypatch):
    """At a second an update, and 30 of them."""
    for seconds, steps, gone in ((30.0, 30, 30), (29.9, 30, 20), (1.0, 19, 19), (None, 30, 30)):
        clock = iter([100.0, 120.0])
        monkeypatch.setattr(stacked, "time", SimpleNamespace(perf_counter=lambda c=clock: next(c)))
        data, rows = given(steps)
        told = []
        found = stacked.train_stack(
            networks(),
            data,
            rows,
            configs(steps),
            seconds,
            lambda step, _, told=told: told.append(step),
        )
        assert (found is None) == (gone < steps) and told == list(range(1, gone + 1))


def test_what_cannot_be_one_stack(stacked):
    data, rows = given(4)
    with pytest.raises(AssertionError):
        stacked.train_stack(networks(), data, rows[:3], configs(4))
    one, other = configs(4)
    with pytest.raises(AssertionError):
        stacked.train_stack(networks(), data, rows, [one, Config(steps=4, clip=0.5)])

    class Counts(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.register_buffer("count", torch.zeros(1))

    with pytest.raises(AssertionError):
        stacked.Stack([Counts(), Counts()])
    assert other.lr == 2e-2


def test_a_network_that_diverges_has_no_number_from_there_on(stacked):
    """The one beside it goes on."""
    (x, y), rows = given(6)
    x[7] = math.inf
    rows[:, 1] = 0
    rows[:, 0] = rows[:, 0] % 7
    rows[3, 0, 2] = 7
    _, losses = stacked.train_stack(networks(), (x, y), rows, configs(6))
    assert losses[:, 1].isfinite().all()
    assert losses[:, 0].isfinite().tolist() == [True] * 3 + [False] * 3


# --- the steps of a GRU ---------------------------------------------------------------------------


def test_a_stack_of_grus_is_the_library_s(stacked):
    """Outputs and gradients, with inputs of each network's own."""
    torch.manual_seed(0)
    made = [stacked.StackedGRU(5).double() for _ in range(3)]
    plain = []
    for one in made:
        plain.append(GRU(5).double())
        plain[-1].load_state_dict(one.state_dict())
    x = torch.randn(3, 2, 7, 5, dtype=F64)
    stack = stacked.Stack(made)
    y = stack(x)
    wanted = torch.stack([one(row) for one, row in zip(plain, x, strict=True)])
    torch.testing.assert_close(y, wanted)
    weight = torch.randn(y.shape, dtype=F64)
    (y * weight).sum().backward()
    (wanted * weight).sum().backward()
    for key, p in stack.parameters.items():
        own = torch.stack([dict(one.named_parameters())[key].grad for one in plain])
        torch.testing.assert_close(p.grad, own)
    torch.testing.assert_close(made[0](x[0]), plain[0](x[0]))
    with pytest.raises(ValueError, match=r"x: expected \(batch, length, d_model\), got \(7, 5\)"):
        made[0](x[0, 0])


# --- a GPU that is played -------------------------------------------------------------------------


class Held:
    """A tensor on a GPU, of which only its number is played."""

    device = CUDA

    def __init__(self, value):
        self.value = value

    def detach(self):
        return self

    def clone(self):
        return Held(self.value)

    def copy_(self, other):
        self.value = other.value


def test_a_stack_s_graph_puts_back_what_its_trials_changed(stacked, monkeypatch):
    told = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            told.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def within(name):
        told.append(name)
        yield
        told.append("end")

    main = Stream("main")
    graph = SimpleNamespace(replay=lambda: None)
    for name, value in (
        ("Stream", Stream),
        ("current_stream", lambda: main),
        ("stream", lambda stream: within(f"on {stream.name}")),
        ("CUDAGraph", lambda: graph),
        ("graph", lambda one: within("record")),
    ):
        monkeypatch.setattr(stacked.torch.cuda, name, value)
    held = [Held(1), Held(2)]

    def update():
        told.append("update")
        for one in held:
            one.value += 10

    assert stacked._graph(update, held) is graph.replay
    assert [one.value for one in held] == [1, 2]
    side = ["side waits for main", "on side", "update", "update", "end", "main waits for side"]
    assert told == [*side, "record", "update", "end"]
    plain = torch.zeros(1)
    assert stacked._graph(update, [plain]) is update


@pytest.mark.parametrize("works", [True, False])
def test_the_cell_of_a_gru_is_compiled_where_it_can_be(stacked, monkeypatch, works):
    """On a GPU, once; where the compiler fails that is told at once, and the cell is plain."""
    asked, told, zeros = [], [], torch.zeros
    tell = lambda *said, **how: told.append((said, how))  # noqa: E731
    monkeypatch.setattr(stacked, "print", tell, raising=False)

    def compiled(f, dynamic):
        assert dynamic is False
        if not works:
            raise RuntimeError("no compiler")

        def made(*given):
            asked.append((f.__name__, [tuple(x.shape) for x in given]))
            return f(*given)

        made.__name__ = f"compiled{f.__name__}"
        return made

    monkeypatch.setattr(stacked.torch, "compile", compiled)
    monkeypatch.setattr(stacked.torch, "zeros", lambda *shape, device: zeros(*shape))
    pair = stacked._kernels(CUDA)
    assert stacked._kernels(CUDA) is pair and len(stacked._made) == 1
    if works:
        assert [f.__name__ for f in pair] == ["compiled_forward", "compiled_backward"]
        u, h = (1, 2, 6), (1, 2, 2)
        assert asked == [("_forward", [u, u, h]), ("_backward", [u, u, h, h, h])] and not told
    else:
        assert pair == (stacked._forward, stacked._backward)
        assert told == [(("the cell is not compiled: no compiler",), {"flush": True})]
    asked.clear()
    plain = stacked._kernels(torch.device("cpu"))
    assert plain == (stacked._forward, stacked._backward) and not asked
