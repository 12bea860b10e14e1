"""The grader's wire and the submission's end of it, both in this process, over pipes."""

import contextlib
import copy
import json
import os
import sys
import threading
import time
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from classroom import answers, wire
from linear_time.decoder import SwiGLU
from linear_time.exercises import Wrong
from linear_time.exercises.labs import neutral
from linear_time.ranking_scores import Scores


@pytest.fixture
def pipes():
    """Two ends that hear one another."""
    there, back = os.pipe(), os.pipe()
    grader = wire.Wire(back[0], there[1], trusting=False)
    submission = answers.Submission(there[0], back[1], trusting=True)
    yield grader, submission
    for descriptor in (*there, *back):
        with contextlib.suppress(OSError):
            os.close(descriptor)


@contextlib.contextmanager
def serving(end, other):
    """One end answers in a thread until the other leaves."""

    def serve():
        with contextlib.suppress(wire.Ended):
            while True:
                end.serve(end.receive())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    os.close(other.writer)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def ends(pipes):
    """The same, and the submission answers."""
    with serving(pipes[1], pipes[0]):
        yield pipes


# --- messages


def test_a_long_message_and_two_at_once_arrive_whole(pipes):
    grader, submission = pipes
    texts = ["a", "b" * (3 * 2**16), "", "ü\n"]
    sender = threading.Thread(target=lambda: [grader.send(["say", text]) for text in texts])
    sender.start()
    assert [submission.receive() for _ in texts] == [["say", text] for text in texts]
    sender.join()
    os.write(grader.writer, b'["one"]\n["two"]\n["thr')
    assert [submission.receive(), submission.receive()] == [["one"], ["two"]]
    os.write(grader.writer, b'ee"]\n')
    assert submission.receive() == ["three"]


def test_what_is_no_message_ends_it(pipes):
    grader, submission = pipes
    os.write(grader.writer, b"no JSON\n")
    with pytest.raises(wire.Ended):
        submission.receive()
    os.close(grader.writer)
    with pytest.raises(wire.Ended):
        submission.receive()
    for descriptor in (submission.reader, submission.writer):
        os.close(descriptor)
    for end in (submission.receive, lambda: submission.send([1])):
        with pytest.raises(wire.Ended):
            end()


def test_a_message_as_long_as_it_may_be_is_read(pipes, monkeypatch):
    grader, submission = pipes
    assert wire.LONGEST == 256 * 2**20
    monkeypatch.setattr(wire, "LONGEST", 6)
    submission.buffer += b'["ab'
    os.write(grader.writer, b'"')
    os_read = os.read
    monkeypatch.setattr(wire.os, "read", lambda d, n: os_read(d, 1))
    os.write(grader.writer, b"]\n")
    assert submission.receive() == ["ab"]
    submission.buffer += b'["abc'
    os.write(grader.writer, b'"]\n')
    with pytest.raises(wire.Ended):
        submission.receive()


def test_who_waits_does_so_until_its_deadline(pipes):
    grader, _ = pipes
    grader.deadline = time.monotonic() - 1
    with pytest.raises(wire.Late):
        grader.receive()
    with pytest.raises(wire.Late):
        grader.send([1])
    grader.deadline = time.monotonic() + 0.05
    with pytest.raises(wire.Late):
        grader.receive()
    assert grader.deadline <= time.monotonic() < grader.deadline + 5
    grader.deadline = time.monotonic() + 30
    grader.send(["x"])
    with pytest.raises(wire.Late):  # nobody reads: the pipe is full some time
        grader.deadline = time.monotonic() + 0.1
        grader.send(["x" * 2**20])


@pytest.mark.parametrize(
    ("kind", "text", "made", "told"),
    [
        ("Wrong", "a" * 400, Wrong, "a" * 300),
        ("ValueError", "b" * 301, ValueError, "b" * 300),
        ("ValueError", "", ValueError, ""),
        ("nothing", "c", RuntimeError, "c"),
        (3, 4, RuntimeError, "4"),
        ("int", "c", RuntimeError, "c"),
    ],
)
def test_an_error_is_told_in_a_few_words(pipes, kind, text, made, told):
    error = pipes[0].error(kind, text, "more")
    assert type(error) is made and str(error) == told
    assert bool(error.args) == bool(text)


def test_how_an_error_is_told():
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError

    class Own(KeyError):
        pass

    for error, told in (
        (Wrong("so"), ["Wrong", "so"]),
        (ValueError("a", 1), ["ValueError", "('a', 1)"]),
        (NotImplementedError(), ["NotImplementedError", ""]),
        (Own("k"), ["KeyError", "'k'"]),
        (Silent("x"), ["Exception", "?"]),
    ):
        assert wire.told(error) == ["error", *told]


def test_what_is_asked_is_answered_and_what_fails_is_told(ends):
    grader, submission = ends
    submission.objects += [lambda *args, **kwargs: [args, kwargs], None]
    assert grader.call(0, (1, "a"), {"b": 2.0}) == [(1, "a"), {"b": 2.0}]
    remote = wire.Remote(grader, 0)
    assert remote(3, x=(1,)) == [(3,), {"x": (1,)}]
    with pytest.raises(TypeError, match="not callable"):
        grader.call(1, (), {})
    with pytest.raises(ValueError, match="nothing"):
        grader.ask("nothing")
    with pytest.raises(RuntimeError, match=r"SystemExit: 3"):
        submission.objects[1] = lambda: sys.exit(3)
        grader.call(1, (), {})


def test_what_the_other_end_has_is_asked_for_by_its_public_names(ends):
    grader, submission = ends
    submission.objects.append(SimpleNamespace(size=7, _inside=1))
    thing = wire.Remote(grader, 0)
    assert thing.size == 7
    for name in ("_inside", "nothing"):
        with pytest.raises(AttributeError, match=name):
            getattr(thing, name)
    with pytest.raises(AttributeError, match="_x"):
        grader.ask("get", 0, "_x")


def test_functions_are_called_where_they_are_and_come_home(ends):
    """Each end calls the other's while it answers; its own comes back as itself."""
    grader, submission = ends
    submission.objects.append(lambda g: [g(2), g])
    seen = []

    def here(x):
        seen.append(x)
        return x + 1

    value, same = grader.call(0, (here,), {})
    assert value == 3 and seen == [2] and same is here
    assert grader.objects == [here]


@pytest.mark.parametrize("message", ["[]", '"text"', "{}", "3"])
def test_a_reply_that_is_none_ends_it(pipes, message):
    grader, submission = pipes
    os.write(submission.writer, f"{message}\n".encode())
    with pytest.raises(wire.Ended):
        grader.ask("call", 0, [], {})


# --- layers of the other end


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.width = 2
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x, shift=0.0):
        return self.scale * self.inner[0](x) + shift

    def mode(self):
        return "training" if self.training else "evaluation"


def test_a_layer_of_the_other_end_is_read_set_and_called(pipes):
    grader, submission = pipes
    net = Net().eval()
    layer = submission.unpack(grader.pack(neutral(net)))
    assert isinstance(layer, wire.Layer)
    theirs, own = wire.tensors_of(layer), wire.tensors_of(net)
    assert len(own) == 5 and theirs.keys() == own.keys()
    assert all(torch.equal(theirs[name], own[name]) for name in own)
    assert set(dict(layer.named_parameters())) == set(dict(net.named_parameters()))
    x = torch.ones(4, 2)
    with serving(grader, submission), torch.no_grad():
        assert torch.equal(layer(x, shift=1.0), net(x, shift=1.0))
        assert layer.width == 2 and layer.mode() == "training"
        layer.eval()
        assert layer.mode() == "evaluation"
        first = getattr(layer.inner, "0")
        first.bias.fill_(5.0)
        layer.scale.fill_(2.0)
        assert layer(torch.zeros(1, 2)).tolist() == [[10.0] * 3] and net.scale.item() == 2.0
        assert torch.equal(first(x), net.inner[0](x)) and first.in_features == 2
        for name in ("_x", "nothing"):
            with pytest.raises(AttributeError, match=name):
                getattr(layer, name)
        other = copy.deepcopy(layer)
        other.scale.fill_(3.0)
        assert layer.scale.item() == 2.0 and other(torch.zeros(1, 2)).tolist() == [[15.0] * 3]
        kinds = [value.requires_grad for value in wire.tensors_of(other).values()]
        assert kinds == [value.requires_grad for value in own.values()] == [True] * 4 + [False]
        assert copy.deepcopy(first).bias.tolist() == [5.0] * 3


def test_the_other_end_takes_the_state_that_it_is_sent(pipes):
    grader, _ = pipes
    net = nn.Linear(2, 2)
    grader.pack(neutral(net))
    state = {"weight": torch.eye(2).requires_grad_(), "bias": torch.zeros(2)}
    given = [0, "", "forward", [torch.ones(2)], {}, state, False]
    assert grader.answer("method", *given).tolist() == [1.0, 1.0]
    assert net.training is False and isinstance(net.weight, nn.Parameter)
    assert not net.weight.data.requires_grad and torch.equal(net.weight, torch.eye(2))


# --- values

Pair = namedtuple("Pair", "a b")


class Text(str):
    def __str__(self):
        return "another"

    def __len__(self):
        return 99


class Whole(int):
    pass


class Many(list):
    def __iter__(self):
        return iter([0])


class Named(dict):
    def items(self):
        return []


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (np.float64(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), (np.array(2.5), 2.5),
        (np.arange(3), torch.arange(3)), (np.eye(2), torch.eye(2, dtype=torch.float64)),
        (Text("own"), "own"), (Whole(7), 7), (Many([1, 2]), [1, 2]), (Named(a=1), {"a": 1}),
        (Pair(1, 2), (1, 2)), (frozenset({1}), frozenset({1})), ({1}, {1}), (-0.0, -0.0),
        (-(2**70), -(2**70)), (torch.int64, torch.int64),
        (Scores(3, 0.5, 0.25, 1.0), Scores(3, 0.5, 0.25, 1.0)),
    ],
)  # fmt: skip
def test_values_of_other_kinds_travel_as_plain_ones(pipes, value, came):
    grader, submission = pipes
    got = grader.unpack(json.loads(json.dumps(submission.pack(value))))
    assert type(got) is type(came)
    assert torch.equal(got, came) if isinstance(came, torch.Tensor) else got == came


def test_a_generator_goes_on_where_it_was(pipes):
    grader, submission = pipes
    made = torch.Generator().manual_seed(3)
    torch.rand(5, generator=made)
    came = grader.unpack(json.loads(json.dumps(submission.pack(made))))
    assert torch.equal(torch.rand(3, generator=came), torch.rand(3, generator=made))


def test_a_layer_of_the_library_s_travels_whole_and_no_other_does(pipes):
    grader, submission = pipes
    layer = SwiGLU(2, 4)
    sent = json.loads(json.dumps(submission.pack(layer)))
    assert sent[0] == "saved" and sent[2:] == ["linear_time.decoder", "SwiGLU"]
    came = grader.unpack(sent)
    assert type(came) is SwiGLU
    assert all(map(torch.equal, came.parameters(), layer.parameters()))
    assert submission.pack(Net())[0] == "mine"
    assert grader.pack(SwiGLU(2, 4))[0] == "pickle" and grader.pack(object())[0] == "pickle"
    assert submission.pack(object())[0] == "mine"


def test_a_remote_thing_goes_home_by_its_own_wire_alone(pipes):
    grader, submission = pipes
    remote = wire.Remote(grader, 5)
    assert grader.pack(remote) == ["yours", 5]
    assert submission.pack(remote) == ["mine", 0] and submission.objects == [remote]
    submission.objects = [1, 2]
    assert submission.unpack(["yours", 1]) == 2


def test_tensors_travel_without_their_history_and_views(pipes):
    grader, _ = pipes
    grown = torch.ones(2, 2, requires_grad=True)
    for value in (grown * 2, torch.tensor([1 + 2j]).conj(), torch.arange(6).reshape(2, 3).T):
        came = grader.unpack(json.loads(json.dumps(grader.pack(value))))
        assert torch.equal(came, value) and came.is_leaf and came.is_contiguous()
        assert came.requires_grad == value.requires_grad and came.dtype == value.dtype
    assert wire.pack_tensor(torch.zeros(0, 2)) == ["tensor", "float32", [0, 2], "", False]


def test_whose_class_it_is():
    assert wire.own(SwiGLU) and wire.own(Scores)
    assert not wire.own(nn.Linear) and not wire.own(Net)
    false = type("SwiGLU", (nn.Module,), {"__module__": "linear_time.decoder"})
    assert not wire.own(false)
    assert wire.library("linear_time.decoder", "SwiGLU") is SwiGLU
    with pytest.raises(Wrong, match="of the library's"):
        wire.library("torch.nn", "Linear")
    assert wire.public("x") == "x"
    with pytest.raises(AttributeError, match="_x"):
        wire.public("_x")


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (["dtype", "nn"], "a type of numbers"),
        (["tuple", [], "linear_time.decoder", "SwiGLU"], "a tuple of the library's"),
        (["record", ["dict", []], "linear_time.decoder", "SwiGLU"], "an object of the library's"),
        (["sympy", "Add", ["x"]], "sympy's terms"),
        (["pickle", "x"], "what is none."),
        (["int", "x"], r"what is none \(ValueError\)"),
        (["list", 3], r"what is none \(TypeError\)"),
    ],
)
def test_what_is_refused_is_named(pipes, sent, says):
    with pytest.raises(Wrong, match=says):
        pipes[0].unpack(sent)


# --- the submission's end


def test_imports_and_cells_are_executed_for_themselves(pipes):
    _, submission = pipes
    imports = ["import math", "1 / 0", "raise SystemExit", "%magic\nimport os", "def f(:"]
    cells = {"12-a": ["x = math.pi", "def f():\n    return x + len(seen)", "check('12-a', f)"],
             "12-b": ["seen = []", "raise SystemExit(2)"]}  # fmt: skip
    submission.answer("begin", imports, cells, {"12-a": "f", "12-b": "x"})
    assert submission.names["__name__"] == "student" and submission.names["os"] is os
    assert "x" not in submission.names, "a cell is executed when it is asked for"
    submission.names["seen"] = []
    found = submission.answer("find", "12-a")
    assert 3.1 < found() < 3.2 and found is submission.names["f"]
    with pytest.raises(RuntimeError, match=r"^SystemExit: 2$"):
        submission.answer("find", "12-b")
    with pytest.raises(KeyError):
        submission.answer("find", "12-c")


@pytest.mark.parametrize(("grad", "modes"), [(True, (1, 0)), (False, (0, 0)), (None, (0, 1))])
def test_an_answer_is_called_as_the_grader_would(pipes, grad, modes):
    _, submission = pipes

    def answer(x, scale=1):
        product = torch.ones(2, 3) @ torch.ones(3, 4)
        torch.cumsum(product, 0)
        return [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), scale * x]

    submission.objects.append(answer)
    calls = ("linear_time.exercises.cases", "Calls", (), {})
    instruments = ["flops", contextlib.nullcontext(), calls]
    value, states = submission.answer("watched", 0, [2], {"scale": 3}, grad, instruments)
    assert value == [*map(bool, modes), 6]
    assert states[0] == {"flops": 2 * 2 * 3 * 4} and states[1] == {}
    assert "cumsum" in states[2]["names"]


def test_what_an_instrument_found_is_data():
    made = SimpleNamespace(a=1, b=[2], c=len, d=torch.ones(1), e={"x"}, f=object(), g=None, h=True)
    assert set(answers.found(made)) == {"a", "b", "d", "e", "h"}
    assert answers.found(None) == {}


@pytest.mark.parametrize(
    ("event", "arguments", "refused"),
    [
        *((name, (), "not for an answer") for name in (
            "socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
            "os.fork", "os.forkpty", "pty.spawn")),
        *(("open", (f"a{end}", "r", 0), "other notebooks") for end in (
            ".ipynb", ".jsonl", ".secret")),
        ("open", ("a.py", "r", 0), None), ("import", ("a.ipynb",), None), ("os.listdir", (), None),
        ("open", (3, "r", 0), None),
    ],
)  # fmt: skip
def test_what_an_answer_may_not_do(event, arguments, refused):
    if refused is None:
        assert answers.refuse(event, arguments) is None
        return
    with pytest.raises(PermissionError, match=refused):
        answers.refuse(event, arguments)


def test_the_process_limits_itself_serves_and_leaves(pipes, monkeypatch):
    """What it does before it listens, in this order; it ends with the pipe."""
    grader, submission = pipes
    done = []
    monkeypatch.setattr(answers, "end_with_parent", lambda: done.append("parent"))
    monkeypatch.setattr(answers.resource, "setrlimit", lambda *given: done.append(given))
    monkeypatch.setattr(answers.sys, "addaudithook", done.append)
    monkeypatch.setattr(answers.os, "_exit", lambda code: done.append(code))
    monkeypatch.setattr(sys, "argv", ["answers.py", str(submission.reader), str(submission.writer)])
    made = [["begin", [], [], []], ["find", "x"], ["get", ["int", "0x0"], "real"]]
    made[0] = ["begin", *map(grader.pack, ([], {"x": ["y = [1]"]}, {"x": "y"}))]
    for message in made:
        grader.send(message)
    os.close(grader.writer)
    answers.main()
    grader.deadline = time.monotonic() + 5
    limits = answers.resource
    assert done == [
        "parent", (limits.RLIMIT_CORE, (0, 0)), (limits.RLIMIT_FSIZE, (2**26, 2**26)),
        answers.refuse, 0,
    ]  # fmt: skip
    assert [grader.receive() for _ in made] == [
        ["reply", None], ["reply", ["list", [["int", "0x1"]]]],
        ["error", "IndexError", "list index out of range"],
    ]  # fmt: skip


def test_the_process_takes_pickles(pipes, monkeypatch):
    """It trusts the grader, whose cases may be of any kind."""
    made = []

    class Noted(answers.Submission):
        def __init__(self, *given, **named):
            made.append((given, named))
            raise wire.Ended

    for name in ("end_with_parent",):
        monkeypatch.setattr(answers, name, lambda: None)
    monkeypatch.setattr(answers.resource, "setrlimit", lambda *given: None)
    monkeypatch.setattr(answers, "Submission", Noted)
    monkeypatch.setattr(sys, "argv", ["answers.py", "7", "8"])
    with pytest.raises(wire.Ended):
        answers.main()
    assert made == [((7, 8), {"trusting": True})]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("check('12-a', f)", "12-a"),
        ("assert check('12-a', f)", "12-a"),
        ("check(name, f)", None),
        ("check()", None),
        ("x = check('12-a', f)", None),
        ("other('12-a', f)", None),
        ("a.check('12-a', f)", None),
        ("check(3, f)", None),
    ],
)
def test_which_exercise_a_statement_checks(source, name):
    (node,) = answers.ast.parse(source).body
    assert answers.checked(node) == name
