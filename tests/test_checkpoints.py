"""A checkpoint is loaded whole or not at all, and the message says what is wrong."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers import Bomb
from linear_time.checkpoints import Layout, Setting, load, read, setting

pytestmark = pytest.mark.bad_input
INDEX = "model.safetensors.index.json"


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def tensors():
    """What fits ``model()``, with other values."""
    return {
        key: value + 1 if value.is_floating_point() else value + 7
        for key, value in model().state_dict().items()
    }


def write(folder, content=None, config='{"width": 3, "name": "small"}'):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config, encoding="utf8")
    if content is not None:
        save_file(content, folder / "model.safetensors")
    return folder


def write_shards(folder, weight_map=None):
    write(folder)
    first = {"a": torch.ones(2), "b": torch.zeros(3)}
    second = {"c": torch.arange(4.0)}
    save_file(first, folder / "model-1.safetensors")
    save_file(second, folder / "model-2.safetensors")
    if weight_map is None:
        weight_map = dict.fromkeys(first, "model-1.safetensors")
        weight_map |= dict.fromkeys(second, "model-2.safetensors")
    (folder / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf8"
    )
    return first | second


def unchanged(action, match, error=ValueError):
    """The action on a model fails with this message and the model is as before."""
    mine = model()
    with pytest.raises(error, match=match):
        action(mine)
    for (name, one), other in zip(
        mine.state_dict().items(), model().state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


# --- read ----------------------------------------------------------------------------------------


def test_reads_what_was_written(tmp_path):
    wanted = {
        "a": torch.randn(3, 2),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "c": torch.tensor([1, 2]),
        "d": torch.tensor(0.5),
    }
    config, got = read(write(tmp_path, wanted))
    assert config == {"width": 3, "name": "small"}
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(got[key], value) and got[key].dtype == value.dtype
    assert read(str(tmp_path))[1].keys() == wanted.keys()


def test_reads_shards_and_prefers_the_single_file(tmp_path):
    wanted = write_shards(tmp_path)
    _, got = read(tmp_path)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    save_file({"single": torch.ones(1)}, tmp_path / "model.safetensors")
    assert read(tmp_path)[1].keys() == {"single"}


def test_no_path():
    """In words of our own: Python's differ from one to the next."""
    for folder in (True, 3, None, b"x"):
        with pytest.raises(TypeError, match=r"^folder: expected a path, got "):
            read(folder)
        with pytest.raises(TypeError, match=r"^folder: expected a path, got "):
            SMALL.write(folder, nn.Linear(1, 1), {"width": 3})


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^folder: .*'.*nowhere', which is not there"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x", encoding="utf8")
    with pytest.raises(FileNotFoundError, match=r"^folder: .*which is a file"):
        read(tmp_path / "file")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"^config.json: expected this file in '.*empty'"):
        read(empty)
    with pytest.raises(
        FileNotFoundError, match=r"^folder: expected model.safetensors or .*neither"
    ):
        read(write(empty))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "expected JSON, got a damaged file"),
        ("", "expected JSON, got a damaged file"),
        ("[" * 100_000, "expected JSON, got a damaged file"),
        ("[1]", "expected a JSON object, got a list"),
        ("null", "expected a JSON object, got a NoneType"),
    ],
)
def test_damaged_config(tmp_path, config, message):
    with pytest.raises(ValueError, match=f"^config.json: {message}"):
        read(write(tmp_path, {"a": torch.ones(1)}, config))
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"^config.json: expected JSON"):
        read(tmp_path)


def test_truncated_at_any_place(tmp_path):
    file = write(tmp_path, tensors()) / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 4, 8, 40, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"^model.safetensors: expected a whole safetensors"):
            read(tmp_path)
    file.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=r"^model.safetensors: "):
        read(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_pickled_weights_are_refused_and_not_run(tmp_path, name):
    folder = write(tmp_path / "model")
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    message = f"{name}" if name != "model.safetensors" else "got a damaged one or another format"
    with pytest.raises(ValueError, match=message):
        read(folder)
    torch.save(tensors(), folder / name)
    with pytest.raises(ValueError, match=message):
        read(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_pickled_file_beside_is_left_alone(tmp_path):
    folder = write(tmp_path / "model", tensors())
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert read(folder)[1].keys() == tensors().keys()
    assert not (tmp_path / "exploded").exists()


ONE, TWO = "model-1.safetensors", "model-2.safetensors"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({}, "^model.safetensors.index.json: expected weight_map"),
        ([], "^model.safetensors.index.json: expected weight_map.*got a list"),
        ({"a": ONE, "b": ONE, "z": TWO, "c": TWO}, f"^{TWO}: .* z is in it, and it is not in it"),
        ({"a": ONE, "c": TWO}, f"^{ONE}: .* b is not in it, and it is in it"),
        ({"a": ONE, "b": TWO, "c": TWO}, f"^{ONE}: .* b is not in it"),
        ({"a": f"../{ONE}"}, "names of .safetensors files in the folder, got '../"),
        ({"a": f"/etc/{ONE}"}, "names of .safetensors files in the folder, got '/etc"),
        ({"a": "model.bin"}, "names of .safetensors files in the folder, got 'model.bin'"),
        ({"a": 3}, "names of .safetensors files in the folder, got '3'"),
    ],
)
def test_bad_index(tmp_path, weight_map, message):
    write_shards(tmp_path, weight_map)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_bad_shards(tmp_path):
    write_shards(tmp_path)
    (tmp_path / TWO).write_bytes((tmp_path / TWO).read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"^{TWO}: expected a whole safetensors file"):
        read(tmp_path)
    (tmp_path / TWO).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{TWO}: expected this file in"):
        read(tmp_path)
    (tmp_path / INDEX).write_text("{", encoding="utf8")
    with pytest.raises(ValueError, match=f"^{INDEX}: expected JSON"):
        read(tmp_path)


# --- load ----------------------------------------------------------------------------------------


def test_loads_parameters_and_buffers_in_place():
    mine, wanted = model(), tensors()
    before = [parameter.data_ptr() for parameter in mine.parameters()]
    load(mine, wanted)
    for key, value in mine.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    assert [parameter.data_ptr() for parameter in mine.parameters()] == before
    assert all(parameter.requires_grad for parameter in mine.parameters())
    assert not any(tensor.data_ptr() in before for tensor in wanted.values())


def test_loads_under_the_files_names_and_into_the_models_precision():
    mine, wanted = model().double(), tensors()
    wanted = {f"net.{key}": value for key, value in wanted.items()}
    wanted["net.0.weight"] = wanted["net.0.weight"].to(torch.bfloat16)
    load(mine, wanted, lambda name: f"net.{name}")
    assert mine[0].weight.dtype == torch.float64
    assert torch.equal(mine[0].weight, wanted["net.0.weight"].double())


@pytest.mark.parametrize("key", tensors())
def test_each_missing_key_loads_nothing(key):
    given = tensors()
    del given[key]
    unchanged(lambda mine: load(mine, given), rf"^{key}: expected .* shape \(.*got no such key")


@pytest.mark.parametrize("key", tensors())
def test_each_wrong_shape_loads_nothing(key):
    given = tensors()
    given[key] = given[key][None]  # would broadcast
    own = str(tuple(model().state_dict()[key].shape)).replace("(", r"\(").replace(")", r"\)")
    unchanged(lambda mine: load(mine, given), rf"^{key}: expected shape {own}, got shape \(1,")


def test_a_transposed_matrix_is_not_reshaped():
    given = tensors()
    given["0.weight"] = given["0.weight"].T
    message = r"^0.weight: expected shape \(4, 3\), got shape \(3, 4\)"
    unchanged(lambda mine: load(mine, given), message)


def test_an_extra_key_loads_nothing():
    given = {**tensors(), "2.weight": torch.ones(5)}
    message = r"^2.weight: expected no such key, got a float32 tensor of shape \(5,\)"
    unchanged(lambda mine: load(mine, given), message)


@pytest.mark.parametrize(
    ("key", "bad", "message"),
    [
        ("0.bias", torch.tensor([1.0, torch.nan, 1, torch.inf]), "got 2 that are NaN or infinite"),
        ("0.bias", torch.full((4,), 1e300, dtype=torch.float64), "finite values in torch.float32"),
        ("0.bias", torch.ones(4, dtype=torch.int8), "a dtype like torch.float32, got torch.int8"),
        ("0.bias", torch.ones(4, dtype=torch.complex64), "like torch.float32, got torch.complex64"),
        ("1.num_batches_tracked", torch.tensor(1.0), "like torch.int64, got torch.float32"),
    ],
)
def test_bad_values_load_nothing(key, bad, message):
    unchanged(lambda mine: load(mine, {**tensors(), key: bad}), f"^{key}: expected .*{message}")


def test_names_the_files_keys_and_all_that_is_wrong_up_to_eight():
    given = {f"net.{key}": value for key, value in tensors().items()}
    given["net.0.bias"] = torch.ones(5)
    del given["net.1.weight"]
    message = r"(?s)^net.0.bias: expected shape.*\nnet.1.weight: expected .* got no such key$"
    unchanged(lambda mine: load(mine, given, lambda name: f"net.{name}"), message)
    many = {**tensors(), **{f"extra.{i}": torch.ones(1) for i in range(11)}}
    unchanged(lambda mine: load(mine, many), r"^extra.0: (.*\n){8}… and 3 more$")


def test_two_names_of_one_key_are_refused():
    unchanged(
        lambda mine: load(mine, tensors(), lambda name: "same"), "^rename: .*got same for two"
    )


# --- setting -------------------------------------------------------------------------------------


def test_settings():
    config = {"n": 3, "x": 0.5, "flag": True, "nothing": None, "name": "a"}
    assert setting(config, "n", int) == 3
    assert setting(config, "n", (int, float)) == 3
    assert setting(config, "x", (int, float)) == 0.5
    assert setting(config, "flag", bool) is True
    assert setting(config, "nothing", int, 4) == 4
    assert setting(config, "absent", int, None) is None
    for name, kind, message in [
        ("absent", int, r"expected absent \(int\), got no such key"),
        ("nothing", int, r"expected nothing \(int\), got null"),
        ("x", int, "expected x to be int, got 0.5"),
        ("flag", int, "expected flag to be int, got True"),
        ("flag", (int, float), "expected flag to be int or float, got True"),
        ("n", bool, "expected n to be bool, got 3"),
        ("name", int, "expected name to be int, got 'a'"),
    ]:
        with pytest.raises(ValueError, match=f"^config.json: {message}"):
            setting(config, name, kind)


# --- layout --------------------------------------------------------------------------------------

SMALL = Layout(
    model_type="small",
    settings={
        "width": Setting("d", int),
        "rate": Setting("r", (int, float), 0.5, "inner"),
        "name": Setting("n", str, None),
    },
    only={"act": "relu", "bias": False},
    keys={"0": "net.first", "1.*.part": "net.*.other"},
)


def test_arguments_of_a_folder():
    small = {"model_type": "small", "d": 3}
    assert SMALL.arguments(small) == {"width": 3, "rate": 0.5, "name": None}
    for more, rate in (
        ({"inner": {"r": 2}}, 2),
        ({"r": 2}, 2),  # where older writers had it
        ({"inner": {"r": 2}, "r": 3}, 2),
        ({"inner": {"r": None}, "r": None}, 0.5),
        ({"inner": None, "act": None, "unknown": [1]}, 0.5),
        ({"act": "relu", "inner": {"bias": False}}, 0.5),
    ):
        assert SMALL.arguments({**small, **more})["rate"] == rate
    for more, message in (
        ({"model_type": None}, r"expected model_type \(str\), got null"),
        ({"model_type": "large"}, "expected model_type = 'small', the only one .*, got 'large'"),
        ({"d": None}, r"expected d \(int\), got null"),
        ({"inner": [1]}, "expected inner to be dict, got a list"),
        ({"inner": {"r": "1"}}, "expected r to be int or float, got '1'"),
        ({"act": "gelu"}, "expected act = 'relu', the only one supported, got 'gelu'"),
        ({"inner": {"bias": True}}, "expected bias = False, .*got True"),
    ):
        with pytest.raises(ValueError, match=f"^config.json: {message}"):
            SMALL.arguments({**small, **more})


def test_keys_of_a_layout():
    names = {
        "0": "net.first",
        "0.weight": "net.first.weight",
        "00.weight": "00.weight",  # a part, not a beginning
        "1.12.part.weight": "net.12.other.weight",
        "1.x.part.weight": "1.x.part.weight",
        "2.0.weight": "2.0.weight",
    }
    for name, key in names.items():
        assert SMALL.key(name) == key


def tied(wide=False):
    return Layout(
        settings={},
        only={},
        keys={"0": "embedding", "1": "norm"} | ({"2": "head"} if wide else {}),
        same=("embedding.weight", "old.weight", "head.weight"),
        derived=("inv_freq",),
    )


def test_one_matrix_under_some_of_its_keys():
    one, other = torch.rand(4, 3), torch.rand(4, 3)
    norm = {"norm.weight": torch.ones(3)}
    names = ("embedding.weight", "old.weight", "head.weight")
    for some in (names[:1], names[1:2], names[2:], names[1:], names):
        mine = nn.Sequential(nn.Embedding(4, 3), nn.RMSNorm(3))
        given = {**norm, **dict.fromkeys(some, one), "layers.3.inv_freq": torch.ones(2)}
        tied().load(mine, given)
        assert torch.equal(mine[0].weight, one)
        assert "layers.3.inv_freq" in given  # the caller's own
        if len(some) > 1:
            with pytest.raises(ValueError, match=f"^{some[-1]}: expected the values of embedding"):
                tied().load(mine, {**given, some[-1]: other})
            for bad in (one[:3], one[None], one.mT):
                with pytest.raises(ValueError, match=f"^{some[-1]}: expected the values of"):
                    tied().load(mine, {**given, some[-1]: bad})
            assert torch.equal(mine[0].weight, one)
    tied().load(mine, {**norm, names[0]: one.half(), names[2]: one.half().float()})
    assert torch.equal(mine[0].weight, one.half().float())
    # a head of its own is a tensor of the model
    mine.append(nn.Linear(3, 4, bias=False))
    tied(wide=True).load(mine, {**norm, names[1]: one, names[2]: other})
    assert torch.equal(mine[0].weight, one) and torch.equal(mine[2].weight, other)
    with pytest.raises(ValueError, match=r"^head.weight: .*got no such key"):
        tied(wide=True).load(mine, {**norm, names[0]: one})
