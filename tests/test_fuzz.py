"""Hostile folders, arguments and answers: a clear error or a result, never a crash, a hang, a pass.

What is tried is drawn by hypothesis from the annotations: of a public function that says what it
raises, of every layer of the contract, and of the folders that ``from_pretrained`` reads.
"""

import importlib
import inspect
import json
import pickle
import pkgutil
import random
import re
import signal
import struct
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaForCausalLM,
    PerceiverConfig,
    PerceiverForMaskedLM,
)
from transformers import MambaConfig as TheirMamba

import contract
import linear_time
from helpers import Bomb, changed
from linear_time.decoder import LlamaLM
from linear_time.mamba import MambaLM
from linear_time.perceiver_io import PerceiverMaskedLM

pytestmark = pytest.mark.bad_input  # the library's own messages, not those of the runtime check
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=12)


class Late(Exception):
    """It took too long."""


@contextmanager
def soon(seconds: float) -> Iterator[None]:
    """``Late`` after so many seconds."""

    def stop(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def clear(call: Callable[[], Any], told: str = "expected") -> bool:
    """Whether a call gives something; where it raises, the error must be one that says why."""
    try:
        with soon(20):
            call()
    except (ValueError, TypeError, FileNotFoundError, FloatingPointError) as error:
        assert told in str(error), f"{type(error).__name__}: {error}"
        return False
    return True


# --- arguments -----------------------------------------------------------------------------------

#: Nothing that any argument is, in a function that takes tensors, sizes and numbers.
WRONG: tuple[Any, ...] = (
    *(None, "x", -1, 0, 3.5, float("nan"), float("inf"), 10**30, 10**400, True, [], {}, (), b"x"),
    *(object(), torch.tensor(1.0), torch.empty(0), torch.full((2, 3), float("nan"))),
    *(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 2, 2, 2, 2), torch.ones(2, 0, 3)),
    *(torch.ones(3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.complex64)),
    torch.ones(2, 3, dtype=torch.float16),
)
#: These show, measure or read what ships, or are the inside of kernels.
APART = ("explorer", "drawing", "figures", "panel", "show", "measure", "datasets", "records")


def promised() -> dict[str, tuple[Callable, dict[str, Any]]]:
    """Public functions with a section Raises, and the hints of arguments that are checked."""
    found = {}
    for info in pkgutil.iter_modules(linear_time.__path__):
        apart = info.ispkg or info.name in APART or "triton" in info.name
        if apart or info.name.startswith(("_", "scan_")):
            continue
        module = importlib.import_module(f"linear_time.{info.name}")
        for name, function in vars(module).items():
            own = getattr(function, "__module__", None) == module.__name__
            if name.startswith("_") or not own or not inspect.isfunction(function):
                continue
            if not re.search(r"^Raises:$", inspect.getdoc(function) or "", re.MULTILINE):
                continue
            hints = typing.get_type_hints(inspect.unwrap(function))
            hints.pop("return", None)
            if all(map(drawn_from, hints.values())):
                found[f"{info.name}.{name}"] = function, hints
    return found


def drawn_from(hint: Any) -> bool:
    """Whether arguments can be drawn from a hint: tensors, numbers, words, or some of these."""
    if hasattr(hint, "dim_str") or hint in (int, float, bool, str, type(None), torch.Generator):
        return True
    parts = typing.get_args(hint)
    union = typing.get_origin(hint) in (typing.Union, getattr(typing, "UnionType", None))
    return (union or "|" in str(hint)) and any(map(drawn_from, parts))


def argument(hint: Any, sizes: dict[str, int], draw: random.Random) -> Any:
    """A right one, as far as the hint says; sizes of one name are the same."""
    if hasattr(hint, "dim_str"):
        shape = []
        for word in hint.dim_str.split():
            word = word.removeprefix("#")
            shape.append(
                int(word) if word.isdigit() else sizes.setdefault(word, draw.randint(1, 4))
            )
        kind = hint.__name__.partition("[")[0]
        generator = torch.Generator().manual_seed(draw.randrange(2**32))
        if kind.startswith("Int"):
            return torch.randint(0, 2, shape, generator=generator)
        if kind.startswith("Bool"):
            return torch.rand(shape, generator=generator) > 0.3
        dtype = torch.complex128 if kind.startswith("Complex") else torch.float64
        return torch.randn(shape, generator=generator, dtype=dtype)
    parts = [part for part in typing.get_args(hint) if drawn_from(part)]
    if parts:
        return argument(draw.choice(parts), sizes, draw)
    made = {int: draw.randint(1, 4), float: draw.random() + 0.1, bool: draw.random() < 0.5}
    made |= {str: "x", torch.Generator: torch.Generator().manual_seed(0)}
    return made.get(hint)


FUNCTIONS = promised()


def test_most_functions_are_tried():
    assert len(FUNCTIONS) >= 50


@pytest.mark.parametrize("name", FUNCTIONS)
@few
@given(seed=seeds)
def test_any_argument_of_a_function(name, seed):
    """One argument is wrong, or none by its kind: a result, or an error that says why."""
    function, hints = FUNCTIONS[name]
    draw, sizes = random.Random(seed), {}
    parameters = inspect.signature(function).parameters
    given_ = {
        key: argument(hint, sizes, draw)
        for key, hint in hints.items()
        if parameters[key].default is inspect.Parameter.empty or draw.random() < 0.3
    }
    # Python takes anything for true or false, and torch says itself what a device is.
    wrong = [k for k in given_ if hints[k] is not bool and k not in ("device", "dtype")]
    if wrong and draw.random() < 0.8:
        given_[draw.choice(wrong)] = draw.choice(WRONG)
    clear(lambda: function(**given_))


@pytest.mark.parametrize("name", contract.CASES)
@few
@given(seed=seeds)
def test_any_input_of_a_layer(name, seed):
    case = contract.CASES[name]
    if case.kind == "function":
        return  # above
    draw = random.Random(seed)
    values = list(contract.inputs(name))
    place = draw.randrange(len(values))
    options: list[Any] = [*WRONG, values[place][..., :-1], values[place][None], values[place].T]
    if values[place].is_floating_point():
        options += [values[place].clone().fill_(float("inf")), values[place].long()]
    else:
        options += [values[place] + 10**6, -1 - values[place], values[place].float()]
    values[place] = draw.choice(options)
    module = contract.make(name)
    clear(lambda: module(*values))
    if case.masked and draw.random() < 0.5:
        right = contract.inputs(name)
        clear(lambda: module(*right, mask=draw.choice(WRONG)))


@pytest.mark.parametrize("name", [n for n, c in contract.CASES.items() if c.kind == "model"])
@few
@given(seed=seeds)
def test_any_argument_of_generate(name, seed):
    model, draw = contract.make(name), random.Random(seed)
    arguments = {"prompt": contract.inputs(name)[0], "n": 2, "temperature": 0.5, "seed": 3}
    arguments[draw.choice(list(arguments))] = draw.choice(WRONG)
    clear(lambda: model.generate(**arguments))


# --- folders -------------------------------------------------------------------------------------

LOADERS: dict[str, Any] = {"llama": LlamaLM, "mamba": MambaLM, "perceiver": PerceiverMaskedLM}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small model of each kind, as transformers writes it."""
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    llama = LlamaConfig(
        **{"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
        **none,
    )
    mamba = TheirMamba(vocab_size=11, hidden_size=8, num_hidden_layers=1, state_size=4, **none)
    perceiver = PerceiverConfig(
        **{"vocab_size": 11, "d_model": 16, "num_latents": 3, "d_latents": 16, "num_blocks": 1},
        **{"num_self_attends_per_block": 1, "num_self_attention_heads": 2},
        **{"num_cross_attention_heads": 2, "max_position_embeddings": 9},
    )
    torch.manual_seed(0)
    models = {
        "llama": LlamaForCausalLM(llama),
        "mamba": MambaForCausalLM(mamba),
        "perceiver": PerceiverForMaskedLM(perceiver),
    }
    found = {}
    for name, model in models.items():
        found[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(found[name])
    return found


VALUES = (None, -1, 0, 1, 7, 3.5, float("inf"), float("nan"), 10**30, 10**9, True, "x", [], {})
VALUES += (["x"] * 3, {"x": None}, "auto", "../..", [[[[]]]])


@pytest.mark.parametrize("name", LOADERS)
def test_every_field_of_a_config_wrong(folders, tmp_path, name):
    """A field that says nothing of the model changes nothing; any other is refused, or fits."""
    config = json.loads((folders[name] / "config.json").read_text(encoding="utf8"))
    refused = 0
    for field in config:
        for value in VALUES:
            target = changed(folders[name], tmp_path, {field: value} if value is not None else {})
            if value is None:
                target = changed(folders[name], tmp_path, {field: None})
            refused += not clear(lambda target=target: LOADERS[name].from_pretrained(target))
    assert refused > 30


@pytest.mark.parametrize("name", LOADERS)
def test_tensors_swapped_and_of_another_kind(folders, tmp_path, name):
    stored = load_file(folders[name] / "model.safetensors")
    load = LOADERS[name].from_pretrained
    for key, value in stored.items():
        for other in (
            *(value.long(), value > 0, value.to(torch.complex64), value[..., None], value[:0]),
            *(torch.full_like(value, float("nan")), torch.full_like(value.double(), 1e300), None),
        ):
            if other is not None and other.dtype == torch.complex64:
                continue  # safetensors writes none
            assert not clear(
                lambda other=other, key=key: load(
                    changed(folders[name], tmp_path, tensors={key: other})
                )
            ), (key, other)
    keys = [k for k, v in stored.items() if v.ndim == 2]
    for one in keys:
        for other in keys:
            if stored[one].shape != stored[other].shape:
                swap = {one: stored[other], other: stored[one]}
                assert not clear(
                    lambda swap=swap: load(changed(folders[name], tmp_path, tensors=swap))
                )


@pytest.mark.parametrize("name", LOADERS)
@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_file(folders, tmp_path_factory, name, data):
    """Cut, with bytes changed, or with a header that says what is not there."""
    folder = changed(folders[name], tmp_path_factory.mktemp("damaged"))
    path = folder / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(content) - 1, 400)))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    clear(lambda: LOADERS[name].from_pretrained(folder))


def test_headers_that_lie(folders, tmp_path):
    """Sizes beyond the file, of 2⁶³ bytes, overlapping, negative, or a header of a gigabyte."""
    folder = changed(folders["llama"], tmp_path)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    keys = [key for key in header if key != "__metadata__"]

    def written(change: Callable[[dict], None]) -> bytes:
        copy = json.loads(json.dumps(header))
        change(copy)
        text = json.dumps(copy).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    def set_of(**values: Any) -> Callable[[dict], None]:
        return lambda copy: copy[keys[0]].update(values)

    for damaged in (
        struct.pack("<Q", 2**62) + content[8:],
        struct.pack("<Q", 2**30) + content[8:],
        b"",
        b"\0" * 8,
        *map(
            written,
            (
                set_of(data_offsets=[0, 2**62]),
                set_of(data_offsets=[-4, 0]),
                set_of(data_offsets=[8, 4]),
                set_of(shape=[2**40, 2**40]),
                set_of(shape=[-1, 8]),
                set_of(dtype="F31"),
                set_of(data_offsets=header[keys[1]]["data_offsets"]),
                lambda copy: copy.update({"more": "than"}),
                lambda copy: copy.clear(),
            ),
        ),
    ):
        path.write_bytes(damaged)
        assert not clear(lambda: LlamaLM.from_pretrained(folder))


def test_pickles_links_and_circles(folders, tmp_path):
    """Nothing is unpickled, an index does not lead out, and what names itself is refused."""
    bomb = tmp_path / "exploded"
    for name in ("model.safetensors", "pytorch_model.bin", "config.json"):
        folder = tmp_path / f"p-{name}"
        folder.mkdir()
        changed(folders["mamba"], folder)
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Bomb(bomb)))
        assert not clear(lambda folder=folder: MambaLM.from_pretrained(folder))
    assert not bomb.exists()
    folder = tmp_path / "index"
    folder.mkdir()
    changed(folders["mamba"], folder)
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    for place in (
        *("../part.safetensors", "/etc/passwd", "model.safetensors.index.json", ".", "", "part"),
        *(str(folder / "part.safetensors"), "part.safetensors/", None, 3, [], {}),
    ):
        weight_map = dict.fromkeys(stored, place)
        index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf8")
        assert not clear(lambda: MambaLM.from_pretrained(folder)), place
    index.write_text('{"weight_map": ' * 5000 + "1" + "}" * 5000, encoding="utf8")
    assert not clear(lambda: MambaLM.from_pretrained(folder))
    index.unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")  # a circle
    assert not clear(lambda: MambaLM.from_pretrained(folder))
    save_file(stored, folder / "part.safetensors")


def test_a_config_larger_than_its_tensors_makes_no_model(folders, tmp_path):
    """A size of a billion is refused before memory is asked for."""
    for name, field in (
        *(("llama", "vocab_size"), ("llama", "hidden_size"), ("llama", "intermediate_size")),
        *(("llama", "num_hidden_layers"), ("mamba", "num_hidden_layers"), ("mamba", "expand")),
        *(("mamba", "vocab_size"), ("perceiver", "num_latents"), ("perceiver", "d_latents")),
    ):
        target = changed(folders[name], tmp_path, {field: 10**9})
        with pytest.raises(ValueError, match=f"config.json: expected {field}"), soon(5):
            LOADERS[name].from_pretrained(target)


def test_what_is_drawn_can_fail():
    """The judge of this file sees a crash, an unclear error and a hang."""

    def crash() -> Tensor:
        return torch.ones(2) @ torch.ones(3)

    def unclear() -> None:
        raise ValueError("no")

    def hang() -> None:
        while True:
            pass

    with pytest.raises(RuntimeError):
        clear(crash)
    with pytest.raises(AssertionError):
        clear(unclear)
    with pytest.raises(Late), soon(0.2):
        hang()
