"""Chapter 16's comparison: the entrants are what they are called, the record is what is quoted."""

import json

import pytest
import torch

from book import ROOT, experiment
from linear_time.mixer import Residual
from linear_time.s4 import S4D
from linear_time.selective import Selective

RECORD = ROOT / "experiments" / "results" / "selective_copying.json"
SMALL = RECORD.with_stem("selective_copying_small")


@pytest.fixture(scope="module")
def script():
    return experiment("selective_copying")


def test_the_entrants(script):
    """One frame; what is selected, and by which rule, is what the name says."""
    size = script.SIZES["full"]
    switches = {}
    for name in script.MIXERS:
        network = script.network(name, 64, size)
        assert len(network.blocks) == 2
        for block in network.blocks:
            assert isinstance(block, Residual)
            mixer = block.mixer
            if name == "S4D":
                assert isinstance(mixer, S4D) and mixer.eigenvalues.shape[-1] == 16  # pairs
                continue
            assert isinstance(mixer, Selective) and mixer.A.shape[-1] == 16
            x = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0))
            varies = [bool(part.std(1).max() > 0) for part in mixer.select(x)]
            switches[name] = (*varies, mixer.rule)
    assert switches == {
        "S6": (True, True, True, "released"),
        "S6, zero-order hold": (True, True, True, "zero_order_hold"),
        "only Δ selected": (True, False, False, "released"),
        "only B and C selected": (False, True, True, "released"),
        "fixed": (False, False, False, "released"),
    }


@pytest.mark.parametrize("of_size", ["full", "small"])
def test_equal_parameters(script, of_size):
    size = script.SIZES[of_size]
    counts = [
        script.count(script.network(name, script.width(name, of_size), size))
        for name in script.MIXERS
    ]
    assert max(abs(count / counts[0] - 1) for count in counts) < 0.02


def test_the_chosen_rate_has_the_lowest_validation_loss(script):
    runs = [
        {"length": 64, "model": "S6", "lr": lr, "seed": seed, "validation_loss": loss}
        for lr, losses in {0.1: (1.0, 3.0), 0.2: (1.5, 1.7), 0.3: (0.1,), 0.4: (None, 0.1)}.items()
        for seed, loss in enumerate(losses)
    ]
    picked = script.chosen(runs, 64, "S6")
    assert [r["lr"] for r in picked] == [0.2, 0.2]  # not the one with fewer seeds or one diverged
    assert script.chosen(runs, 256, "S6") == []


def test_the_record_is_what_the_chapter_reads(script):
    """Chapter 16's section "Who arrives", number by number, from the runs."""
    record = json.loads(RECORD.read_text())
    size = script.SIZES["full"]
    small = json.loads(SMALL.read_text())
    for of, name in ((record, "full"), (small, "small")):
        wanted = {
            **script.SIZES[name]._asdict(),
            **{"n_tokens": 8, "N": 16, "n_layer": 2, "warmup": 50, "seeds": [0, 1, 2]},
            "sequences_evaluated": 1024,
        }
        assert of["settings"] == json.loads(json.dumps(wanted))
    assert (size.d_model, size.steps, size.batch, size.vocab_size) == (64, 3000, 64, 16)
    groups: dict = {}
    for run in record["runs"]:
        assert abs(run["parameters"] / 16_960 - 1) < 0.02 and run["steps"] == size.steps
        rates = groups.setdefault((run["length"], run["model"]), {})
        rates.setdefault(run["lr"], {})[run["seed"]] = run
    assert set(groups) == {(n, name) for n, names in size.lengths.items() for name in names}
    seeds, mean, rate = {}, {}, {}
    for key, rates in groups.items():
        assert all(sorted(group) == [0, 1, 2] for group in rates.values())
        loss = {lr: sum(r["validation_loss"] for r in g.values()) for lr, g in rates.items()}
        rate[key] = min(loss, key=loss.get)
        beyond = {0.04} if min((lr for lr in loss if lr < 0.03), key=loss.get) == 0.02 else set()
        assert set(rates) == set(size.rates) | beyond
        seeds[key] = [run["sequences"] for run in rates[rate[key]].values()]
        mean[key] = round(sum(seeds[key]) / 3, 2)
        picked = script.chosen(record["runs"], *key)
        assert sorted(r["sequences"] for r in picked) == sorted(seeds[key])
    assert mean == {
        (64, "S6"): 0.92,
        (64, "S6, zero-order hold"): 0.96,
        (64, "only Δ selected"): 0.87,
        (64, "only B and C selected"): 0.82,
        (64, "fixed"): 0.20,
        (64, "S4D"): 0.37,
        (256, "S6"): 0.96,
        (256, "S6, zero-order hold"): 0.94,
        (256, "fixed"): 0.00,
        (256, "S4D"): 0.03,
    }
    assert {key for key in rate if rate[key] == max(groups[key])} == {(64, "S4D")}
    assert min(seeds[64, "S6"]) < max(seeds[64, "only Δ selected"])
    assert max(seeds[64, "only B and C selected"]) < min(seeds[64, "S6"])
    for length in (64, 256):
        paper, released = seeds[length, "S6, zero-order hold"], seeds[length, "S6"]
        assert min(paper) < max(released) and min(released) < max(paper)

    unfitted = script.chosen(record["runs"], 256, "fixed")
    assert sorted(round(r["training_loss"], 1) for r in unfitted) == [1.1, 1.8, 2.1]
    unfitted = script.chosen(record["runs"], 256, "S4D")
    assert sorted(round(r["training_loss"], 1) for r in unfitted) == [0.8, 0.9, 1.0]
    at_four_times = groups[256, "S6"][0.02]
    assert rate[256, "S6"] * 4 == 0.02
    assert min(round(r["sequences"], 2) for r in at_four_times.values()) == 0.08
    nearest = min(seeds[64, "S6"]) - max(seeds[64, "only B and C selected"])
    assert round(nearest, 2) == 0.02
    assert max(seeds[64, "only B and C selected"]) > min(seeds[64, "only Δ selected"])
    assert size.vocab_size - 2 == 14 and script.SIZES["small"].vocab_size - 2 == 4

    swept = [r for r in small["runs"] if r["seed"] == 0]
    (first,) = script.chosen(swept, 64, "S6")
    picked = [r for r in small["runs"] if r["model"] == "S6" and r["lr"] == first["lr"]]
    assert round(first["sequences"], 2) == 0.61
    assert sorted(round(r["sequences"], 2) for r in picked) == [0.01, 0.10, 0.61]
    own = script.SIZES["small"]
    assert (2 * own.d_model, 2 * own.steps, 2 * own.batch) == (64, 3000, 64)
