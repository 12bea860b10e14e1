"""Chapter 18's comparison: the models are what they are called, the record is what is quoted."""

import json

import pytest
import torch

from book import ROOT, experiment
from linear_time.datasets import text
from linear_time.mamba import MambaConfig, MambaLM

SMALL = ROOT / "experiments" / "results" / "language_models_small.json"


@pytest.fixture(scope="module")
def script():
    return experiment("language_models")


NAMES = (
    "mamba", "llama", "s4d", "gru", "elman", "mamba without selection",
    "mamba without convolution", "convolution of 4", "convolution of 32",
)  # fmt: skip
every = pytest.mark.parametrize("name", NAMES)


def model_of(script, name, size="small"):
    torch.manual_seed(0)
    return script.model(name, size, 66)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("size", ["full", "small"])
def test_equal_parameters(script, size):
    assert tuple(script.MODELS) == NAMES
    counts = [parameters(model_of(script, name, size)) for name in NAMES]
    assert max(counts) < 1.02 * min(counts) or size == "small"
    assert max(abs(count / counts[0] - 1) for count in counts) < 0.02


@every
@torch.no_grad()
def test_step_is_forward(script, name):
    """For the fused kernels too, whose steps are the library's."""
    network = model_of(script, name)
    tokens = torch.randint(66, (2, 40), generator=torch.Generator().manual_seed(1))
    state = network.initial_state(2)
    for t, token in enumerate(tokens.unbind(1)):
        logits, state = network.step(token, state)
        torch.testing.assert_close(logits, network(tokens)[:, t], rtol=1e-4, atol=1e-5)


def test_mamba_is_the_library_s(script):
    ours = MambaLM(MambaConfig(vocab_size=66, d_model=64, n_layer=2))
    ours.load_state_dict(model_of(script, "mamba").state_dict())
    torch.manual_seed(0)
    fresh = MambaLM(MambaConfig(vocab_size=66, d_model=64, n_layer=2))
    for left, right in zip(ours.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(left.std(), right.std(), rtol=0.05, atol=1e-6)


@torch.no_grad()
def test_without_selection_is_a_convolution(script):
    """What goes through the state is linear in u and shifts with it; Mamba's own does neither."""
    u = torch.randn(1, 30, 140, generator=torch.Generator().manual_seed(0))
    for name, constant in (("mamba without selection", True), ("mamba", False)):
        mixer = model_of(script, name).blocks[0].mixer
        delta, B, C = mixer.select(u[..., : mixer.d_inner])
        assert (delta.std(1).max() == 0) == constant
        assert (B.std(1).max() == 0) == constant and (C.std(1).max() == 0) == constant


def reach(mixer, d_model, length=50):
    """How many positions back an output reads."""
    x = torch.randn(1, length, d_model, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    mixer(x)[0, -1].sum().backward()
    return int((x.grad[0].abs().amax(-1) > 0).sum())


@pytest.mark.parametrize(("name", "wanted"), [("convolution of 4", 4), ("convolution of 32", 32)])
def test_a_convolution_reads_its_taps(script, name, wanted):
    mixer = model_of(script, name).blocks[0].mixer
    assert reach(mixer, mixer.d_model) == wanted


def test_without_convolution_selects_by_the_present(script):
    mixer = model_of(script, "mamba without convolution").blocks[0].mixer
    assert not hasattr(mixer, "conv1d") and mixer.initial_state(1).window.numel() == 0
    assert reach(mixer, mixer.d_model) == 50  # through the state


def test_arithmetic(script):
    """Twice the weights of the products, once a character; and the scan beside them."""
    counted = script.flops("mamba", "small", 66)
    d = 64
    layer = 6 * d * d + 2 * d * 4 + 2 * d * 36 + 2 * d * 4  # matrices and taps
    assert counted == {"weights": 2 * (2 * layer + 66 * d), "beside": 2 * 8 * 128 * 16}
    assert script.flops("gru", "small", 66)["beside"] == 0


def test_the_record_is_what_the_chapter_reads(script):
    """Chapter 18's section on nine models, number by number, from the runs."""
    record = json.loads(SMALL.read_text())
    size = script.SIZES["small"]
    for name in ("length", "batch", "steps", "rates"):
        assert record["settings"][name] == json.loads(json.dumps(getattr(size, name)))
    groups = {}
    for run in record["runs"]:
        if "lr" in run:
            assert abs(run["parameters"] / 70_000 - 1) < 0.02 and run["steps"] == size.steps
            groups.setdefault(run["model"], {}).setdefault(run["lr"], {})[run["seed"]] = run
    assert set(groups) == set(script.MODELS)
    test, rate, late = {}, {}, {}
    for name, rates in groups.items():
        assert sorted(rates) == sorted(size.rates)
        assert all(sorted(seeds) == [0, 1, 2] for seeds in rates.values())
        validation = {lr: sum(r["validation"] for r in s.values()) for lr, s in rates.items()}
        rate[name] = min(validation, key=validation.get)
        runs = rates[rate[name]].values()
        test[name] = [run["test"] for run in runs]
        late[name] = [sum(r["by_position"][i] for r in runs) / 3 for i in (5, 8)]
    mean = {name: sum(values) / 3 for name, values in test.items()}
    (counted,) = (r["test"] for r in record["runs"] if r.get("baseline") == "n-gram")

    others = [name for name in mean if name != "gru"]
    assert all(max(test["gru"]) < min(test[name]) for name in others)
    second = ("mamba without selection", "convolution of 4", "mamba")
    assert sorted(others, key=mean.get)[:3] == sorted(second, key=mean.get)
    assert max(mean[n] for n in second) - min(mean[n] for n in second) < 0.01
    assert mean["convolution of 4"] < mean["gru"] + 0.03
    assert mean["mamba without convolution"] > mean["mamba"] + 0.15
    assert mean["convolution of 32"] > mean["convolution of 4"] + 0.05
    assert counted["5"] + 0.2 < mean["gru"] < mean["mamba"] < counted["4"]
    assert {n for n in mean if rate[n] == min(size.rates)} == {"llama"}
    assert {n for n in mean if rate[n] == max(size.rates)} == {"s4d"}
    for name in ("mamba", "gru", "elman"):
        assert late[name][1] < late[name][0]
    assert late["s4d"][1] > late["s4d"][0] + 0.3
    assert late["llama"][1] > 5

    (xz,) = (r["test"] for r in record["runs"] if r.get("compressor") == "xz")
    assert (round(xz, 2), round(counted["7"], 2)) == (2.15, 1.90)

    characters = size.steps * size.batch * size.length
    book = text()
    assert characters == 921_600 and 0.23 < characters / len(book.parts()[0]) < 0.25
    flops = {n: script.flops(n, "small", len(book.alphabet)) for n in script.MODELS}
    whole = {n: sum(f.values()) for n, f in flops.items()}
    assert min(whole, key=whole.get) == "s4d"
    assert (round(min(whole.values()), -3), round(max(whole.values()), -3)) == (127_000, 165_000)
    assert 0.39 < max(f["beside"] / whole[n] for n, f in flops.items()) < 0.41


@torch.no_grad()
def test_bits(script):
    """Of a model that knows nothing; every character but the first half window is scored once."""

    class Even(torch.nn.Module):
        seen = 0

        def forward(self, tokens):
            self.seen += tokens.shape[0] * tokens.shape[1] // 2
            return torch.zeros(*tokens.shape, 4)

    part, model = torch.zeros(101, dtype=torch.int64), Even()
    assert script.bits(model, part, 10) == pytest.approx(2)
    assert model.seen == 95
    assert script.bits_by_position(model, part, 16) == pytest.approx([2.0] * 5)
