"""The networks of the experiments: those of the records, built by the scripts of today.

That a job is trained and scored as it says is asked in ``test_experiment_jobs.py``, where the
network is replaced by one that knows the answers; here it is the network itself.
"""

import itertools
import json

import pytest
import torch
from torch import nn

from book import experiment
from linear_time import checks, records
from linear_time.datasets import movielens
from linear_time.layer import Layer
from linear_time.training import Config, seed_everything
from test_experiment_jobs import CASES, JOBS, RECORDED, TOGETHER, caught, small

pytestmark = pytest.mark.usefixtures("no_gpu")

__all__ = ["small"]
#: What makes no other network.
SAME = {"lr", "seed", "steps", "fold", "batch", "protocol", "stage", "epochs", "dropout", "quick"}
SAME |= {"beta2", "start", "target", "length", "weight_decay", "linear_decay", "strength", "seeds"}

#: Of the scripts that train several networks together, how a network is made is said below.
KNOWN = ("paper_tables", "recall", "sequential_digits")


def name_of(record) -> str:
    return record.command.split()[1].split("/")[1].removesuffix(".py")


def networks() -> list:
    """(script, job, parameters): one row of each kind of network in each record."""
    found = []
    for record in RECORDED:
        name = name_of(record)
        if name in TOGETHER and name not in KNOWN:
            continue
        keys = {key for job in JOBS[name] for key in job} | {"blocks"}
        kinds: dict[str, tuple] = {}
        for row in map(dict, record):
            if "parameters" in row and "lr" in row:
                job = {key: row[key] for key in row if key in keys}
                kind = {k: v for k, v in job.items() if k not in SAME or k == "target"}
                kinds.setdefault(json.dumps(kind, default=list), (job, row["parameters"]))
        found += [
            pytest.param(name, job, parameters, id=f"{record.name}-{i}")
            for i, (job, parameters) in enumerate(kinds.values())
        ]
    return found


def built(script, monkeypatch, name: str, job: dict) -> nn.Module:
    if name == "paper_tables":
        experiment("recall")  # imported where a network is made, when the folder is not looked in
        table = script.SIZES[job["size"]][job["table"]]
        return script.network(table, job["model"], job["width"], job.get("blocks"))
    if name == "recall":
        return script.network(script.SIZES[job["size"]], job["model"])
    if name == "sequential_digits":
        return script.model(job["model"], job["N"], job["size"], job["read"])
    if name == "movielens":
        fields = script.data(job["protocol"], torch.device("cpu"), job["quick"]).fields
        return script.ranker(fields, job["model"], job["width"])
    return caught(script, monkeypatch, job).model


@pytest.mark.bad_input  # nothing is looked at twice
@pytest.mark.parametrize(("name", "job", "parameters"), networks())
def test_a_recorded_network_has_the_parameters_of_today(monkeypatch, name, job, parameters):
    script = experiment(name)
    made = built(script, monkeypatch, name, job)
    checks(values=True)
    assert sum(p.numel() for p in made.parameters()) == parameters


def test_the_networks_of_ratings_have_the_parameters_that_were_timed():
    script = experiment("movielens")
    timed = records.read("movielens").settings["throughput"]
    assert {row["throughput"] for row in timed} == {"logistic", *script.NETWORKS}
    fields = script.data("user", torch.device("cpu")).fields
    for row in timed:
        model = script.ranker(fields, row["throughput"], script.ABLATED_AT)
        assert script.runs.count(model) == row["parameters"], row["throughput"]
        inside = script.runs.count(model.network) if model.network else 0
        assert inside == row["network_parameters"], row["throughput"]


# --- what a count does not tell -------------------------------------------------------------------


def test_sorted_pixels_have_no_order():
    script = experiment("perceiver_digits")
    seed_everything(0)
    model = script.model("sorted")
    x = torch.rand(3, 64, 1)
    moved = x[:, torch.randperm(64)]
    assert torch.equal(model(x, None, None), model(moved, None, None))
    assert not torch.equal(model(x, None, None), model(x.flip(0), None, None))


@pytest.mark.parametrize("kind", ["cnn", "vit", "perceiver"])
@pytest.mark.parametrize("positions", ["fourier", "learned"])
def test_models_of_digits_are_told_of_places(kind, positions):
    """Permuted pixels are other digits, unless their positions go with them."""
    script = experiment("perceiver_digits")
    seed_everything(0)
    model = script.model(f"{kind} {positions}")
    raw, permuted, _ = (script.data(c, torch.device("cpu")) for c in script.CONDITIONS)
    given = [(d["test"][0][:4], d["positions"], d["index"]) for d in (raw, permuted)]
    with torch.no_grad():
        one, other = (model(*g) for g in given)
        again = model(given[1][0], *given[0][1:])
    assert one.shape == (4, 10) and not torch.allclose(one, again)
    assert torch.allclose(one, other, rtol=0, atol=1e-5) == (kind == "perceiver")


@pytest.mark.parametrize("compressor", ["lce", "sorted lce"])
def test_a_compression_starts_near_the_mean(compressor):
    script = experiment("perceiver_history")
    seed_everything(0)
    W = script.Reader(compressor, 32, "plain").W.detach()
    assert W.shape == (32, script.LENGTH)
    assert float(W.mean()) == pytest.approx(1 / script.LENGTH, abs=0.005)
    assert float(W.std()) == pytest.approx(1 / 16, rel=0.05)


def test_popular_is_what_the_training_users_like():
    """The sum of their ratings less their means, over their number and five: for every candidate.

    A rating that is the mean counts as none: it is a zero of the table.
    """
    script = experiment("perceiver_history")
    data, rows = script.data.__wrapped__(), movielens()  # anew: nothing is remembered
    rating, n_users = rows.rating.float(), int(rows.user.max()) + 1
    shuffled = torch.randperm(n_users, generator=torch.Generator().manual_seed(0))
    train = shuffled[: next(iter(script.USERS.values()))]
    assert set(data["train"]["users"].tolist()) <= set(train.tolist())
    means = torch.stack([rating[rows.user == u].mean() for u in range(n_users)])
    seen = torch.isin(rows.user, train)
    less, movie = (rating - means[rows.user])[seen], rows.movie[seen]
    wanted = []
    for own in range(int(movie.max()) + 1):
        liked = less[movie == own]
        wanted.append(float(liked.sum()) / (int((liked != 0).sum()) + 5))
    wanted = torch.tensor(wanted).sort().values
    there = torch.cat([d["liked"].flatten() for d in data.values()]).unique()
    at = torch.searchsorted(wanted, there).clamp(1, len(wanted) - 1)
    near = torch.minimum((wanted[at] - there).abs(), (wanted[at - 1] - there).abs())
    assert len(there) > 1000 and float(near.max()) < 1e-6
    assert float(there.max() - there.min()) > 1


@pytest.mark.parametrize(("known", "explained"), [(1.0, 1.0), (0.5, 0.75), (0.0, 0.0)])
def test_the_share_that_is_explained(known, explained):
    script = experiment("perceiver_history")

    class Knows(nn.Module):
        def rating(self, batch):
            return known * batch["ratings"]

    share, error = script.share(Knows(), "test", "ratings")
    assert share == pytest.approx(explained, abs=1e-6)
    assert error == pytest.approx(0, abs=1e-5)  # it is the same for every user


def test_a_job_of_side_by_side_keeps_the_scale_of_its_rates():
    """A parameter that asks for another rate gets it."""
    side = experiment("paper_tables").side_by_side

    def draw(generator, n):
        return (torch.eye(3).expand(n, 3, 3),)

    def loss(network, x):
        return network(x).square().sum(1)

    class Scaled(Layer):
        def __init__(self, scale):
            super().__init__()
            self.parameter("weight", torch.ones(3, 3), lr_scale=scale)

        def forward(self, x):
            return x @ self.weight

    moved = []
    for scale in (0.25, 0.5):
        config = Config(steps=1, lr=1e-2, warmup=0, weight_decay=0.0)
        trainee = side.Trainee(model := Scaled(scale), draw, loss, config)
        assert side.train_side_by_side([trainee], lambda t: 0.0, 1)
        moved.append(float((model.weight.detach() - 1).abs().mean()))
    assert moved[1] == pytest.approx(2 * moved[0], rel=1e-3) and moved[0] > 0


def test_an_update_s_time_is_the_median_after_two(small, monkeypatch):
    script = small("language_models")
    took = iter([9, 9, 5, 1, 2, 4, 3])
    clock = itertools.accumulate(x for t in took for x in (1, t))
    monkeypatch.setattr(script.time, "perf_counter", lambda: float(next(clock)))
    job = {"update": "gru", "size": "small", "length": 16, "batch": 2, "repeats": 5}
    assert script.update_of({**job, "scan": "torch"}) == {"update_s": 3.0}
    checks(values=True)


def test_every_kind_of_network_is_asked():
    assert {case.values[0] for case in networks()} >= {n for n, j in CASES if "lr" in j} - {
        "pyramid", "selective_steps", "movielens", *TOGETHER,
    }  # fmt: skip
