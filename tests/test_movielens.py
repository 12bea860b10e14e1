"""The experiment of chapter 07: a stack trains each model as ``fit`` does, and sweeps choose."""

import pytest
import torch

from book import ROOT, experiment
from helpers import close
from linear_time import checks, records
from linear_time.ranking import Fields, Ranker, Split, fit
from linear_time.records import Record, packed, unpacked
from linear_time.training import Config, seed_everything


@pytest.fixture(scope="module")
def movielens():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        yield experiment("movielens")


@pytest.fixture(scope="module")
def stacks():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        yield experiment("stacks")


def some_data():
    g = torch.Generator().manual_seed(0)
    sizes = (7, 9, 4, 3, 5)
    codes = torch.stack([torch.randint(n, (130,), generator=g) for n in sizes], 1)
    genres = torch.rand(130, 3, generator=g)
    fields = Fields(("a", "b", "c", "d", "e"), codes, sizes, genres)
    label = (codes[:, 0] > 3) ^ (torch.rand(130, generator=g) < 0.2)
    return fields, label, Split(*torch.arange(130).split([70, 40, 20]))


@pytest.mark.parametrize("name", ["logistic", "fm", "dcn", "wukong attentive", "dhen"])
def test_a_stack_trains_each_as_fit_does(movielens, name):
    """Two rates, decays and seeds: the same least validation loss, at the same step, and logits."""
    fields, label, split = some_data()

    def build():
        return movielens.ranker(fields, name, 4)

    chosen = [
        movielens.Setting(3e-2, 0.5, 0.5, 0.0, 0),
        movielens.Setting(1e-2, 4.0, 4.0, 0.0, 3),
    ]
    with checks(values=False):
        fitted = movielens.fit_stack(
            build, chosen, fields, label, split, epochs=3, batch=32, evaluations=3, warmup=2
        )
    for i, (lr, decay, _, _, seed) in enumerate(chosen):
        seed_everything(seed)
        model = build()
        config = Config(
            steps=9, lr=lr, warmup=2, weight_decay=decay, seed=seed, eval_every=1, progress=False
        )
        history = fit(model, fields, label, split, config, batch=32)
        assert float(fitted.validation[i]) == pytest.approx(history.metric.min(), rel=1e-4)
        assert int(fitted.best_step[i]) == history.eval_step[history.metric.argmin()]
        with torch.no_grad():
            close(model.eval().logits(fields, split.test), fitted.test[i], 1e-3)


def test_a_stack_has_two_decays_and_dropout(movielens, stacks):
    """The linear part decays by its own; models that differ in dropout alone become different."""
    fields, label, _ = some_data()

    def build():
        return movielens.ranker(fields, "fm", 4)

    def after(**changed):
        one = movielens.Setting(1e-2, 0.0, 0.0, 0.0, 0)._replace(**changed)
        stack = stacks.Stack(build, [one], label.device)
        before = stack.views(stack.flat.clone())
        at = torch.arange(30)[None]
        with checks(values=False):
            stack.step(1, 1.0, 1.0, fields.codes[at], fields.genres[at], label[at].float())
        return before, stack.views(stack.flat)

    before, plain = after()
    for changed, decayed in (("linear_decay", "linear."), ("weight_decay", "embedding.")):
        _, other = after(**{changed: 5.0})
        for name, part in other.items():
            factor = 1e-2 * 5.0 if name.startswith(decayed) else 0.0
            close(part, plain[name] - factor * before[name], 1e-6)
    _, dropped = after(dropout=0.5)
    table = "embedding.tables.0.weight"
    assert not torch.equal(dropped[table], plain[table])


def test_sizes_are_equal(movielens):
    """At the width of the ablations, all networks to within 3 % (the FM has no weights behind)."""
    sizes = {
        name: movielens.runs.count(movielens.sized(name, 16))
        for name in (*movielens.NETWORKS[1:], *movielens.ABLATIONS, movielens.CONTROL)
    }
    assert max(sizes.values()) < 1.03 * min(sizes.values()), sizes
    assert max(sizes.values()) <= 160 * 16**2


def swept(movielens, model="dhen", rates=None, **losses):
    """Rows of a sweep: loss 0.6, but for "place_of_job": {setting: loss}."""
    more = {} if rates is None else {"rates": rates}
    jobs = movielens.sweeps(model, "user", False, **more)
    rows = [{**job, "validation": [0.6] * len(movielens.grid(job))} for job in jobs]
    for name, found in losses.items():
        for place, loss in found.items():
            rows[int(name.removeprefix("job_"))]["validation"][place] = loss
    return rows


def recorded(rows):
    return Record("movielens", "", (), {}, tuple(rows))


def test_the_best_of_a_sweep(movielens):
    """The least loss over all stacks of a model; a run that diverged does not count."""
    jobs = movielens.sweeps("dhen", "user", quick=False)
    assert len(jobs) == 4 * 2 * 3 == len({str(job) for job in jobs})
    chosen = movielens.grid(jobs[7])
    assert len(set(chosen)) == len(chosen) == 4 * 6 * 4
    rows = swept(movielens, job_7={0: None, 17: 0.5}, job_2={95: 0.55}, job_13={4: 0.57})
    others = [
        {**rows[7], "validation": [0.1] * 96, key: "another"}
        for key in ("model", "protocol", "stage")
    ]
    record = recorded([*rows, *others])
    found, second = movielens.candidates(record, "dhen", "user", 2, quick=False)
    assert second["dropout"] == jobs[2]["dropout"] and second["lr"] == chosen[95].lr
    assert all(found[key] == jobs[7][key] for key in ("width", "epochs", "dropout"))
    assert found["lr"] == chosen[17].lr and found["weight_decay"] == chosen[17].weight_decay
    assert found["linear_decay"] == chosen[17].linear_decay and found["stage"] == "final"
    (narrow,) = movielens.candidates(record, "dhen", "user", 1, False, width=jobs[13]["width"])
    assert narrow["lr"] == chosen[4].lr and narrow["width"] == 16


def test_a_sweep_goes_on_while_its_largest_rate_is_among_the_best(movielens):
    """One of three is enough; the next rate is held against the last, not against the first."""
    models = [("dhen", "user"), ("fm", "user")]
    last = len(movielens.grid(movielens.sweeps("dhen", "user", False)[0])) - 1
    first = swept(movielens, job_0={0: 0.1, 1: 0.2, last: 0.3})
    others = swept(movielens, "fm", job_0={0: 0.1, 1: 0.2, 2: 0.3})
    jobs = movielens.longer(recorded([*first, *others]), models, 0.06)
    assert {job["model"] for job in jobs} == {"dhen"} and len(jobs) == 24
    assert all(job["rates"] == (0.06,) for job in jobs)
    assert {setting.lr for setting in movielens.grid(jobs[0])} == {0.06}
    assert len(movielens.grid(jobs[0])) == 24
    more = swept(movielens, rates=(0.06,))
    assert movielens.longer(recorded([*first, *more, *others]), models, 0.12) == []
    more = swept(movielens, rates=(0.06,), job_3={5: 0.15})
    jobs = movielens.longer(recorded([*first, *more, *others]), models, 0.12)
    assert {job["rates"] for job in jobs} == {(0.12,)}


def test_final_runs_are_of_networks_and_of_ablations(movielens):
    """Ablations, and beside them the whole DHEN, at their width; with all seeds, on test rows."""
    names = ("dhen", "dhen without fm", "dcn")
    baseline = {"stage": "baseline", "protocol": "user", "quick": False, "strength": 1.5}
    rows = [row for name in names for row in swept(movielens, name, job_0={3: 0.5})]
    models = [(name, "user") for name in names]
    jobs = movielens.finals(recorded([baseline, *rows]), models, (0, 1), False)
    made = {(job["stage"], job["model"]) for job in jobs}
    assert made == {
        ("final", "dhen"),
        ("final", "dcn"),
        ("ablation", "dhen"),
        ("ablation", "dhen without fm"),
    }
    assert len(jobs) == 4 * 3 and all(job["seeds"] == (0, 1) for job in jobs)
    assert all(job["width"] == 16 for job in jobs if job["stage"] == "ablation")


def test_a_longer_sweep_leaves_no_final_run_that_it_put_behind(movielens):
    rows = swept(movielens, job_0={0: 0.1, 1: 0.2, 2: 0.3})
    baseline = {"stage": "baseline", "protocol": "user", "quick": False, "strength": 1.5}
    models = [("dhen", "user")]
    jobs = movielens.finals(recorded([baseline, *rows]), models, (0,), False)
    other = {**jobs[0], "model": "fm"}
    record = recorded([baseline, *rows, *jobs, {**jobs[0], "lr": 7.0}, other])
    kept = movielens.standing(record, models, jobs)
    assert len(kept) == len(record) - 1 and other in kept.rows and rows[3] in kept.rows
    assert {row.get("lr") for row in kept} < {None, *movielens.RATES}


def test_no_sweep_of_the_record_ends_at_a_rate_that_is_among_its_best(movielens):
    """Of the sweeps that are there every rate was tried with all other settings."""
    record = records.read("movielens")
    models = [(name, "user") for name in movielens.MODELS]
    models += [(name, "time") for name in movielens.BY_DATE]
    for model, protocol in models:
        rows = record.where(stage="sweep", protocol=protocol, model=model)
        best = movielens.candidates(record, model, protocol, 3, quick=False)
        tried = {rate for row in rows for rate in row["rates"]}
        assert max(one["lr"] for one in best) < max(tried)
        whole = len(movielens.sweeps(model, protocol, False))
        assert {len(part) for part in rows.by("rates").values()} == {whole}
    jobs = movielens.finals(record, models, (0, 1, 2), False)
    finals = [row for row in record if row["stage"] in ("final", "ablation")]
    assert len(jobs) == len(finals)
    assert all(any(job.items() <= row.items() for row in finals) for job in jobs)


def test_every_network_has_the_same_sweep(movielens):
    sweeps = [
        [
            ({**job, "model": ""}, movielens.grid(job))
            for job in movielens.sweeps(model, "user", False)
        ]
        for model in movielens.NETWORKS
    ]
    assert all(sweep == sweeps[0] for sweep in sweeps)
    assert sum(len(settings) for _, settings in sweeps[0]) == 2304
    logistic = movielens.sweeps("logistic", "user", False)
    assert {setting.weight_decay for setting in movielens.grid(logistic[0])} == {0.0}


def test_a_final_run_decays_as_its_stack(movielens, stacks):
    """The linear part by its own decay, the rest by the other."""
    fields, label, split = some_data()

    def build():
        return movielens.ranker(fields, "dcn", 4)

    setting = movielens.Setting(3e-2, 0.5, 4.0, 0.0, 0)
    with checks(values=False):
        fitted = movielens.fit_stack(
            build, [setting], fields, label, split, epochs=3, batch=32, evaluations=3, warmup=2
        )
    seed_everything(0)
    model = build()
    decay = movielens.decayed(model, 0.5, 4.0)
    assert decay == 0.5
    config = Config(steps=9, lr=3e-2, warmup=2, weight_decay=decay, eval_every=1, progress=False)
    history = fit(model, fields, label, split, config, batch=32)
    assert float(fitted.validation[0]) == pytest.approx(history.metric.min(), rel=1e-4)
    assert movielens.decayed(movielens.ranker(fields, "logistic", 1), 0.0, 0.3) == 0.3


def test_only_a_choice_keeps_its_logits(movielens):
    rows = [
        {"stage": "final", "protocol": "user", "model": m, "validation": v, "logit": "AA=="}
        for m, v in (("fm", [0.5, 0.7]), ("fm", [0.6, 0.59]), ("dcn", [0.9, 0.9]))
    ]
    rows.append({"stage": "sweep", "protocol": "user", "model": "fm", "validation": [0.1]})
    kept = movielens.without_logits(Record("movielens", "", (), {}, tuple(rows)))
    assert ["logit" in row for row in kept] == [False, True, True, False]


def test_ablations_are_compared_with_dhen_on_the_same_users(movielens, monkeypatch):
    """Means over the seeds of both; the best run of each variant alone, and no logits are kept."""
    g = torch.Generator().manual_seed(0)
    user, label = torch.arange(12).repeat_interleave(8), torch.rand(96, generator=g) < 0.5
    split = Split(torch.arange(0), torch.arange(0), torch.arange(96))
    made = movielens.Data(None, label, split, {}, user, user)
    monkeypatch.setattr(movielens, "data", lambda *_: made)
    shared = {"stage": "ablation", "protocol": "user"}
    noise = torch.randn(2, 2, 96, generator=g)
    good = noise[0] + 2 * label

    def row(model, logits, loss):
        kept = [packed(one) for one in logits]
        return {**shared, "model": model, "validation": [loss, loss], "logits": kept}

    rows = [
        row("dhen", good, 0.5),
        row("dhen", noise[1], 0.7),
        row("dhen without fm", noise[1], 0.6),
        row("dhen without fm", good, 0.65),
        row("dhen without lce", good, 0.5),
    ]
    after = movielens.beside_the_whole(recorded(rows), False)
    assert ["to_dhen" in one for one in after] == [False, False, True, False, True]
    change = after[2]["to_dhen"]["auc"]
    assert change["mean"] < -0.2 and change["interval"][1] < 0
    assert all(one["mean"] == 0 == one["error"] for one in after[4]["to_dhen"].values())
    assert not any("logits" in one for one in movielens.without_logits(after))


def test_packed_numbers():
    numbers = torch.linspace(-8, 8, 50)
    there = unpacked(packed(numbers))
    close(there, numbers.clamp(-6.35, 6.35), 0.026)
    assert there.dtype == torch.float32 and packed(there) == packed(numbers)
    for damaged in ("A?==", "AAAA$AAA="):
        with pytest.raises(ValueError):
            unpacked(damaged)


def test_the_linear_part_alone_is_logistic_regression(movielens):
    fields, _, _ = some_data()
    model = movielens.ranker(fields, "logistic", 1)
    assert isinstance(model, Ranker) and model.network is None and model.linear is not None
    assert movielens.ranker(fields, movielens.CONTROL, 4).linear is None
    assert movielens.ranker(fields, "dhen", 4).linear is not None
