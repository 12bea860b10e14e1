"""Chapter 16's look into trained layers: the steps are those taken, the record is quoted."""

import pytest
import torch

from book import experiment
from helpers import draw
from linear_time import records
from linear_time.tasks import selective_copying


@pytest.fixture(scope="module")
def script():
    return experiment("selective_steps")


@pytest.fixture
def network(script):
    torch.manual_seed(0)
    return script.network("S6", 16, script.SIZES["full"]).eval()


def test_kinds(script):
    tokens, _ = selective_copying(4, 20, 5, 16, generator=torch.Generator().manual_seed(0))
    kinds = script.kinds_of(tokens, 16)
    assert tuple(kinds) == script.KINDS
    assert sum(at.int() for at in kinds.values()).eq(1).all()
    assert [int(at.sum()) for at in kinds.values()] == [4 * 15, 4 * 5, 4 * 5]
    values = torch.where(kinds["noise"], 1.0, torch.where(kinds["data"], 2.0, 3.0))
    means = script.per_kind(values[..., None] * torch.tensor([1.0, 10.0]), kinds)
    assert [mean.tolist() for mean in means.values()] == [[1, 10], [2, 20], [3, 30]]


def test_a_change_is_of_its_blocks_alone_and_ends(script, network):
    """Nothing changed, nothing else; and afterwards the layers choose for themselves again."""
    tokens, _ = selective_copying(2, 12, 3, 16, generator=torch.Generator().manual_seed(1))
    kinds = script.kinds_of(tokens, 16)
    before = network(tokens)
    with script.changed(network, lambda delta, B, C, kinds: (delta, B, C), kinds, (0, 1)):
        assert torch.equal(network(tokens), before)
    seen = []
    for change, blocks in script.CHANGES.values():
        with script.changed(network, change, kinds, blocks), script.inputs_of(network) as inputs:
            seen.append((network(tokens), inputs[1]))
        assert torch.equal(network(tokens), before)
    for (change, blocks), (after, second) in zip(script.CHANGES.values(), seen, strict=True):
        assert not torch.equal(after, before)
        with script.inputs_of(network) as inputs:
            network(tokens)
        # the second block reads what it did unless the first was changed
        assert torch.equal(second, inputs[1]) == (0 not in blocks), change


def test_the_changes(script, network):
    tokens, _ = selective_copying(2, 12, 3, 16, generator=torch.Generator().manual_seed(1))
    kinds = script.kinds_of(tokens, 16)
    mixer, x = script.mixers(network)[0], draw(2, 15, 16, dtype=torch.float32)
    raw = mixer.choose(x)
    delta, B, C = mixer.select(x)

    def step(change):
        new, new_B, new_C = change(*raw, kinds)
        assert torch.equal(new_C, C)
        return torch.nn.functional.softplus(new), new_B

    noise = kinds["noise"]
    still, same = step(script.stands_still)
    assert (still[noise] == 0).all() and torch.equal(still[~noise], delta[~noise])
    assert torch.equal(same, B)
    held, _ = step(script.as_data)
    assert torch.allclose(held[noise], delta[kinds["data"]].mean(0).expand_as(held[noise]))
    assert torch.equal(held[~noise], delta[~noise])
    one, _ = step(script.one_step)
    assert torch.allclose(one, delta.mean((0, 1)).expand_as(one))
    kept, empty = step(script.unwritten)
    assert torch.equal(kept, delta) and (empty[noise] == 0).all()
    assert torch.equal(empty[~noise], B[~noise])
    looked = script.look(mixer, x, kinds)
    mean = delta[kinds["data"]].mean(0)
    assert torch.allclose(torch.tensor(looked["delta"]["data"]), mean, rtol=6e-3)
    decay = torch.exp(delta[noise][..., None] * mixer.A).mean().item()
    assert looked["kept"]["noise"] == pytest.approx(decay, rel=6e-3)
    pushed = (delta * x)[noise][..., None] * B[noise][:, None]
    assert looked["written"]["noise"] == pytest.approx(pushed.abs().mean().item(), rel=6e-3)


def test_the_record_is_what_the_chapter_reads(script):
    record = records.read("selective_steps")
    of_before = records.read("selective_copying")
    assert [(n, m) for n, models in script.MODELS.items() for m in models] == [
        (64, "S6"),
        (64, "only Δ selected"),
        (256, "S6"),
    ]
    groups = record.by("length", "model")
    assert {key: sorted(rows.values("seed")) for key, rows in groups.items()} == {
        (n, m): [0, 1, 2] for n, models in script.MODELS.items() for m in models
    }
    for (length, model), rows in groups.items():
        chosen = of_before.where(length=length, model=model).chosen("validation_loss")
        assert set(rows.values("lr")) == {chosen[0]["lr"]} and set(rows.values("steps")) == {3000}

    assert [round(x, 2) for x in groups[64, "S6"].values("right")] == [0.96, 0.96, 0.90]
    before = of_before.where(length=64, model="S6").chosen("validation_loss").values("sequences")
    assert [round(x, 2) for x in before] == [0.89, 0.87, 1.00]

    shares = []
    for row in record:
        assert set(row["changed"]) == set(script.CHANGES)
        block = row["blocks"][0]["delta"]
        ratio = torch.tensor(block["noise"]) / torch.tensor(block["data"])
        shares.append(
            (row["model"], *((r).float().mean().item() for r in (ratio < 0.5, ratio > 2)))
        )
    short = sorted(round(s, 2) for _, s, _ in shares)
    assert (short[0], short[-1]) == (0.44, 0.80)
    assert min(s for m, s, _ in shares if m != "S6") > max(s for m, s, _ in shares if m == "S6")
    long = sorted(round(s, 2) for _, _, s in shares)
    assert (long[0], long[-1]) == (0.12, 0.31)

    still = {name: [row["changed"][name] for row in record] for name in script.CHANGES}
    assert max(still["noise takes no time"]) == 0
    assert max(still["noise takes no time, first block"]) <= 0.002
    second = sorted(still["noise takes no time, second block"])
    assert second[-2] > 0.6 and second[-3] < 0.01
    at_64, at_256 = (record.where(length=n) for n in (64, 256))
    assert round(max(row["longer"]["256"] for row in at_64), 2) == 0.14
    lengths = sorted(round(row["longer"]["64"], 2) for row in at_256)
    assert (lengths[0], lengths[-1]) == (0.00, 0.49)
    assert max(row["changed"]["noise takes no time"] for row in at_64) == 0

    first = groups[64, "S6"].where(seed=0)[0]
    assert [row["seed"] for row in record if "every_delta" in row] == [0]
    tokens, steps = torch.tensor(first["tokens"][0]), torch.tensor(first["every_delta"])
    assert steps.shape == (2, 64, 72) and ((tokens > 0) & (tokens < 15)).sum() == 8
    mean = torch.tensor(first["mean_delta"])[:, 0]  # geometric, over the channels
    assert torch.allclose(steps.log().mean(1).exp(), mean, rtol=2e-2)
    for token in tokens.unique():  # the first block sees one token at a time
        same = steps[0][:, tokens == token]
        assert torch.allclose(same, same[:, :1].expand_as(same), rtol=1e-6)
