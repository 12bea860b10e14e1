"""Chapter 16's comparison: the entrants are what they are called, the record is what is quoted."""

import json

import pytest
import torch

from book import experiment
from helpers import draw
from linear_time import records
from linear_time.mixer import Residual
from linear_time.s4 import S4D
from linear_time.selective import Selective


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
            x = draw(1, 20, 64, dtype=torch.float32)
            varies = [bool(part.std(1).max() > 0) for part in mixer.select(x)]
            switches[name] = (*varies, mixer.rule)
    assert switches == {
        "S6": (True, True, True, "exponential_euler"),
        "S6, zero-order hold": (True, True, True, "zero_order_hold"),
        "only Δ selected": (True, False, False, "exponential_euler"),
        "only B and C selected": (False, True, True, "exponential_euler"),
        "fixed": (False, False, False, "exponential_euler"),
    }


@pytest.mark.parametrize("of_size", ["full", "small"])
def test_equal_parameters(script, of_size):
    size = script.SIZES[of_size]
    counts = [
        script.runs.count(script.network(name, script.width(name, of_size), size))
        for name in script.MIXERS
    ]
    assert max(abs(count / counts[0] - 1) for count in counts) < 0.02


def test_the_record_is_what_the_chapter_reads(script):
    """Chapter 16's section "Who arrives", number by number, from the runs."""
    record, small = (records.read(f"selective_copying{of}") for of in ("", "_small"))
    size = script.SIZES["full"]
    for of, name in ((record, "full"), (small, "small")):
        wanted = {
            **script.SIZES[name]._asdict(),
            **{"n_tokens": 8, "N": 16, "n_layer": 2, "warmup": 50, "seeds": [0, 1, 2]},
            "sequences_evaluated": 1024,
        }
        assert json.dumps(of.settings) == json.dumps(wanted)
    assert (size.d_model, size.steps, size.batch, size.vocab_size) == (64, 3000, 64, 16)
    assert all(abs(run["parameters"] / 16_960 - 1) < 0.02 for run in record)
    assert set(record.values("steps")) == {size.steps}
    groups = {key: runs.by("lr") for key, runs in record.by("length", "model").items()}
    assert set(groups) == {(n, name) for n, names in size.lengths.items() for name in names}
    seeds, mean, rate = {}, {}, {}
    for key, rates in groups.items():
        assert all(group.values("seed") == [0, 1, 2] for group in rates.values())
        loss = {lr: sum(group.values("validation_loss")) for lr, group in rates.items()}
        rate[key] = min(loss, key=loss.get)
        beyond = {0.04} if min((lr for lr in loss if lr < 0.03), key=loss.get) == 0.02 else set()
        assert set(rates) == set(size.rates) | beyond
        seeds[key] = rates[rate[key]].values("sequences")
        mean[key] = round(sum(seeds[key]) / 3, 2)
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

    for name, losses in (("fixed", [1.1, 1.8, 2.1]), ("S4D", [0.8, 0.9, 1.0])):
        unfitted = record.where(length=256, model=name).chosen("validation_loss")
        assert sorted(round(x, 1) for x in unfitted.values("training_loss")) == losses
    at_four_times = groups[256, "S6"][0.02]
    assert rate[256, "S6"] * 4 == 0.02
    assert round(min(at_four_times.values("sequences")), 2) == 0.08
    nearest = min(seeds[64, "S6"]) - max(seeds[64, "only B and C selected"])
    assert round(nearest, 2) == 0.02
    assert max(seeds[64, "only B and C selected"]) > min(seeds[64, "only Δ selected"])
    assert size.vocab_size - 2 == 14 and script.SIZES["small"].vocab_size - 2 == 4

    runs = small.where(length=64, model="S6")
    (first,) = runs.where(seed=0).chosen("validation_loss")
    picked = runs.where(lr=first["lr"])
    assert round(first["sequences"], 2) == 0.61
    assert sorted(round(r["sequences"], 2) for r in picked) == [0.01, 0.10, 0.61]
    own = script.SIZES["small"]
    assert (2 * own.d_model, 2 * own.steps, 2 * own.batch) == (64, 3000, 64)
