"""Chapter 18's comparison: the models are what they are called, the record is what is quoted."""

import pytest
import torch

from book import experiment
from helpers import draw, tokens_of
from linear_time import records
from linear_time.datasets import text
from linear_time.mamba import MambaConfig, MambaLM


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
    assert max(abs(count / counts[0] - 1) for count in counts) < 0.02


@every
@torch.no_grad()
def test_step_is_forward(script, name):
    """For the fused kernels too, whose steps are the library's."""
    network = model_of(script, name)
    tokens = tokens_of(2, 40, 66)
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
    u = draw(1, 30, 140, dtype=torch.float32)
    for name, constant in (("mamba without selection", True), ("mamba", False)):
        mixer = model_of(script, name).blocks[0].mixer
        delta, B, C = mixer.select(u[..., : mixer.d_inner])
        assert (delta.std(1).max() == 0) == constant
        assert (B.std(1).max() == 0) == constant and (C.std(1).max() == 0) == constant


def reach(mixer, d_model, length=50):
    """How many positions back an output reads."""
    x = draw(1, length, d_model, dtype=torch.float32)
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


def test_without_convolution_the_second_block_still_chooses_by_the_past(script):
    """By the states below it; the first block's step, B and C follow the present token alone."""
    blocks = model_of(script, "mamba without convolution").blocks
    x = draw(1, 20, blocks[0].mixer.d_model, dtype=torch.float32).requires_grad_()
    for block, before in ((blocks[0], lambda x: x), (blocks[1], blocks[0])):
        u = block.mixer.in_proj(block.norm(before(x))).chunk(2, dim=-1)[0]
        chosen = block.mixer.choose(torch.nn.functional.silu(u))
        (gradient,) = torch.autograd.grad(sum(c[0, -1].sum() for c in chosen), x)
        seen = int((gradient[0].abs().amax(-1) > 0).sum())
        assert seen == (1 if block is blocks[0] else 20)


def test_arithmetic(script):
    """Twice the weights of the products, once a character; and the scan beside them."""
    counted = script.flops("mamba", "small", 66)
    d = 64
    layer = 6 * d * d + 2 * d * 4 + 2 * d * 36 + 2 * d * 4  # matrices and taps
    assert counted == {"weights": 2 * (2 * layer + 66 * d), "beside": 2 * 8 * 128 * 16}
    assert script.flops("gru", "small", 66)["beside"] == 0


def read(script, size_name):
    """A record's runs; for each model its rate, its test bits and its bits by position."""
    name = "language_models" + ("" if size_name == "full" else "_small")
    record = records.read(name)
    size = script.SIZES[size_name]
    for key, value in size._asdict().items():
        wanted = dict(zip(script.MODELS, value, strict=True)) if key == "widths" else value
        assert record.settings[key] == wanted
    assert set(record.by("steps")) == {size.steps}
    by_model = record.by("model")
    assert set(by_model) == set(script.MODELS)
    found = {}
    for model_name, own in by_model.items():
        rates = own.by("lr")
        assert all(seeds.values("seed") == [0, 1, 2] for seeds in rates.values())
        bits = {lr: sum(seeds.values("validation")) for lr, seeds in rates.items()}
        best = min(bits, key=bits.get)
        swept = min(size.rates, key=bits.get)
        beyond = [lr for lr in size.more_rates if (lr > swept) == (swept == max(size.rates))]
        at_an_end = swept in (min(size.rates), max(size.rates))
        assert set(rates) == {*size.rates, *(beyond if at_an_end else [])}
        runs = own.chosen("validation")
        assert set(runs.values("lr")) == {best}
        places = zip(*runs.values("by_position"), strict=True)
        found[model_name] = (best, runs.values("test"), [sum(place) / 3 for place in places])
    return record, found


def counted(runs):
    (grams,) = runs.where(baseline="n-gram")
    return grams


def test_the_record_is_what_the_chapter_reads(script):
    """Chapter 18's section on nine models, number by number, from the runs of both budgets."""
    runs, full = read(script, "full")
    small_runs, small = read(script, "small")
    mean = {name: sum(test) / 3 for name, (_, test, _) in full.items()}
    low = {name: min(test) for name, (_, test, _) in full.items()}
    high = {name: max(test) for name, (_, test, _) in full.items()}

    for part, cost in {
        "mamba without selection": 0.03,
        "convolution of 32": 0.06,
        "convolution of 4": 0.07,
        "mamba without convolution": 0.10,
    }.items():
        assert round(mean[part] - mean["mamba"], 2) == cost and high["mamba"] < low[part]
    assert round(mean["mamba"] - mean["gru"], 3) == 0.005 and high["gru"] < low["mamba"]
    assert sorted(mean, key=mean.get)[-1] == "s4d"
    assert round(mean["s4d"] - mean["mamba without selection"], 2) == 0.11
    ends = {name for name, (rate, _, _) in full.items() if rate in (3e-4, 3e-2)}
    assert ends == {"mamba", "mamba without selection", "s4d"}
    lead = {}  # over seven characters of context, after 128 to 255 and 1,024 to 2,047 characters
    for name, (_, _, by_position) in full.items():
        lead[name] = [full["convolution of 4"][2][i] - by_position[i] for i in (7, 10)]
    for name in ("mamba", "gru", "elman", "mamba without selection"):
        assert min(lead[name]) > 0.02 and abs(lead[name][0] - lead[name][1]) < 0.01
    assert max(lead["s4d"][0], lead["llama"][0]) < 0
    assert mean["convolution of 4"] < min(mean["llama"], mean["s4d"])
    assert 0.4 < lead["s4d"][0] - lead["s4d"][1] < 0.5
    assert round(lead["llama"][0] - lead["llama"][1], 1) == 3.7

    grams = counted(runs)
    assert min(grams["validation"], key=grams["validation"].get) == "7"
    assert round(grams["test"]["7"], 2) == 1.77
    assert {n for n in mean if high[n] < grams["test"]["7"]} == {
        *("gru", "mamba", "elman", "mamba without selection"),
    }
    assert sum(low[n] > grams["test"]["7"] for n in mean) == 5
    (xz,) = runs.where(compressor="xz").values("test")
    assert round(xz, 2) == 1.93

    few = {name: sum(test) / 3 for name, (_, test, _) in small.items()}
    for part in ("mamba without selection", "convolution of 4"):
        assert abs(few[part] - few["mamba"]) < 0.01
        assert min(small[part][1]) < max(small["mamba"][1])
        assert min(small["mamba"][1]) < max(small[part][1])
    assert few["mamba without convolution"] > few["mamba"] + 0.15
    small_grams = counted(small_runs)
    assert min(small_grams["validation"], key=small_grams["validation"].get) == "9"
    assert round(min(few.values()) - small_grams["test"]["9"], 2) == 0.27
    assert round(few["convolution of 32"] - few["convolution of 4"], 2) == 0.11

    book = text()
    part = len(book.parts()[0])
    read_full, read_small = (
        size.steps * size.batch * size.length for size in map(script.SIZES.get, ("full", "small"))
    )
    assert read_full == 16_384_000 and round(read_full / part, 1) == 4.4
    assert read_small == 921_600 and round(read_full / read_small) == 18
    for of, about in ((runs, 240_000), (small_runs, 70_000)):
        assert all(abs(r["parameters"] / about - 1) < 0.03 for r in of if "lr" in r)
        (mamba,) = {r["parameters"] for r in of if r.get("model") == "mamba"}
        assert all(abs(r["parameters"] / mamba - 1) < 0.02 for r in of if "lr" in r)
    assert 5000 < 1.3e9 / 240_000 < 5500
    flops = {n: script.flops(n, "full", len(book.alphabet)) for n in script.MODELS}
    whole = {n: sum(f.values()) for n, f in flops.items()}
    assert (min(whole, key=whole.get), max(whole, key=whole.get)) == ("convolution of 4", "llama")
    assert (round(min(whole.values()), -3), round(max(whole.values()), -3)) == (480_000, 578_000)
    assert 1.15 < max(whole.values()) / min(whole.values()) < 1.25
    assert max(f["beside"] / whole[n] for n, f in flops.items()) < 1 / 3
    for of in (runs, small_runs):
        update = {r["speed"]: r["update_s"] for r in of if "speed" in r}
        assert set(update) == set(script.MODELS)
    states = {
        name: sum(
            torch.view_as_real(x).numel() if x.is_complex() else x.numel()
            for block in model_of(script, name, "full").initial_state(1)
            for x in (block if isinstance(block, tuple) else (block,))
        )
        for name in ("mamba", "s4d", "gru", "elman")
    }
    assert states == {"mamba": 9728, "s4d": 35_200, "gru": 278, "elman": 476}


def test_the_controls_are_what_the_chapter_reads(script):
    """What the first comparison left open: starts, Adam's β₂, rates, time constants, the kernel."""
    _, full = read(script, "full")
    first = {name: sum(test) / 3 for name, (_, test, _) in full.items()}
    record = records.read("language_models_controls")
    settings = record.by("model", "start", "beta2")
    assert set(settings) == {(model, start, beta2) for model, start, beta2, _ in script.CONTROLS}
    found = {}
    for model, start, beta2, rates in script.CONTROLS:
        by_rate = settings[model, start, beta2].by("lr")
        assert set(by_rate) == set(rates)
        assert all(rows.values("seed") == [0, 1, 2] for rows in by_rate.values())
        found[model, start, beta2] = {
            lr: (sum(rows.values("validation")) / 3, sum(rows.values("test")) / 3)
            for lr, rows in by_rate.items()
        }

    def best(*key):
        return min(found[key].values())[1]

    usual = best("llama", "customary", 0.95)
    assert round(first["llama"] - usual, 2) == 0.03 and round(usual, 2) == 1.79
    assert round(usual - first["mamba"], 2) == 0.05
    ahead = {name for name in first if first[name] < usual}
    assert ahead == {"gru", "mamba", "elman", "mamba without selection"}
    assert abs(best("mamba", "library", 0.999) - first["mamba"]) < 0.0015
    assert abs(best("mamba", "library", 0.95) - first["mamba"]) < 0.0015
    assert abs(best("gru", "library", 0.95) - first["gru"]) < 0.0015
    assert best("gru", "library", 0.95) < best("mamba", "library", 0.95)
    of_rate = settings["mamba", "library", 0.999].where(lr=0.1)
    assert min(of_rate.values("test")) > first["mamba"] + 0.4
    assert round(first["s4d"] - best("s4d", "library", 0.999), 2) == 0.02
    assert best("s4d", "short", 0.999) > first["mamba without convolution"]

    seven = full["convolution of 4"][2]

    def lost(rows):
        places = [sum(place) / 3 for place in zip(*rows.values("by_position"), strict=True)]
        return (places[10] - seven[10]) - (places[7] - seven[7])

    fixed = "mamba without selection"
    others = [
        settings["s4d", "short", 0.999].where(lr=0.03),
        settings["s4d", "library", 0.999].where(lr=0.1),
        settings[fixed, "library", 0.999].where(lr=0.03),
        settings[fixed, "long", 0.999].where(lr=0.03),
    ]
    assert 0.4 < lost(records.read("language_models").by("model")["s4d"].where(lr=0.03)) < 0.5
    assert max(map(lost, others)) < 0.07
    assert sorted(lost(rows) for rows in others)[-2] < 0.01

    ms = {
        key: 1000 * row["update_s"] for key, (row,) in record.by("update", "scan", "length").items()
    }
    plain, fused = ms["mamba", "plain", 256], ms["mamba", "triton", 256]
    assert (round(plain, 1), round(fused, 1)) == (16.5, 2.5)
    assert round(1 - fused / plain, 2) == 0.85
    assert round(ms["gru", "triton", 256] / fused, 1) == 3.6
    assert ms["mamba", "triton", 16_384] < 1.2 * fused
    assert round(ms["gru", "triton", 16_384] / ms["gru", "triton", 256]) == 30
    assert round(ms["llama", "triton", 4096] / ms["llama", "triton", 256]) == 7
    assert {r["length"] * r["batch"] for r in record if "update" in r} == {16_384}


@torch.no_grad()
def test_the_starts_of_the_controls(script):
    """A Transformer's own: 0.02 everywhere, less where it adds to the residual; time constants."""
    torch.manual_seed(0)
    llama = script.model("llama", "full", 66, "customary")
    for name, parameter in llama.named_parameters():
        if parameter.ndim == 2:
            adds = name.endswith(("attention.out.weight", "mlp.down.weight"))
            assert float(parameter.std()) == pytest.approx(0.01 if adds else 0.02, rel=0.05)
    for name, start, slowest, fastest in (
        ("s4d", "short", 200, 2),
        ("s4d", "library", 2000, 20),
        ("mamba without selection", "long", 10_000, 100),
    ):
        mixer = script.model(name, "full", 66, start).blocks[0].mixer
        if name == "s4d":
            steps = 2 / mixer.delta  # its modes decay by half
        else:
            steps = 1 / torch.nn.functional.softplus(mixer.dt_proj.bias)
        assert 0.8 * slowest < steps.max() < 1.01 * slowest
        assert 0.99 * fastest < steps.min() < 1.25 * fastest


def test_the_recorded_generation():
    """The figure of chapter 18: Mamba's time and state stay, a Llama's cache and time grow."""
    record = records.read("generation")
    rows = {at: row for at, (row,) in record.by("model", "position").items()}
    mamba = record.where(model="mamba")
    assert mamba[-1]["position"] == 100_000
    assert {r["state_bytes"] for r in mamba} == {4 * 2 * 38 * 128}
    assert mamba[-1]["step_ms"] < 1.2 * rows["mamba", 1000]["step_ms"]
    for (name, position), row in rows.items():
        if name == "llama":
            assert row["state_bytes"] == 1536 * position
    assert rows["llama", 10_000]["step_ms"] > 2 * rows["llama", 1000]["step_ms"]
    assert round(rows["llama", 10_000]["step_ms"] / rows["llama", 10]["step_ms"], 1) == 2.7
    assert rows["llama", 10]["step_ms"] < rows["mamba", 10]["step_ms"]


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


def test_the_record_of_later_models(script):
    """Equal parameters and the recipe of the first comparison; each is best inside its sweep."""
    record = records.read("language_models_after")
    first = records.read("language_models")
    shared = {"n_layer", "length", "batch", "steps", "long", "scored", "warmup", "weight_decay"}
    assert {k: record.settings[k] for k in shared} == {k: first.settings[k] for k in shared}
    assert record.settings["widths"] == script.AFTER_WIDTHS
    wanted = parameters(model_of(script, "mamba", "full"))
    best = {}
    for name, runs_of in record.by("model").items():
        found = parameters(model_of(script, name, "full"))
        assert abs(found / wanted - 1) < 0.02
        chosen = runs_of.chosen("validation")
        assert {row["parameters"] for row in runs_of} == {found}
        assert len(chosen) == 3 and len(runs_of) == 18
        assert set(runs_of.values("lr")) == {1e-3, 3e-3, 1e-2, 3e-2, 6e-2, 1e-1}
        assert chosen[0]["lr"] == (3e-2 if name == "mamba-2" else 1e-2)
        best[name] = sum(row["test"] for row in chosen) / 3
    assert best == {
        "mamba-2": pytest.approx(1.7558, abs=5e-4),
        "mamba-2 with Mamba's state": pytest.approx(1.7707, abs=5e-4),
    }
    times = record.by("update", "length")
    assert set(times) == {(n, m) for n in ("mamba", *best) for m in script.LENGTHS}
    for (name, length), rows in times.items():
        ratio = rows[0]["update_s"] / times["mamba", length][0]["update_s"]
        assert len(rows) == 1 and (name == "mamba" or 2.5 < ratio < 7)
        assert rows[0]["batch"] * length == 16_384
