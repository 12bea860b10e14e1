"""Where the scripts of ``experiments/`` meet an end: of the time, of the memory, of a length.

Clocks are played, and what a script calls is told; no job is trained here.
"""

import contextlib
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from book import experiment
from linear_time import checks, records
from linear_time.ranking import Split
from linear_time.ranking_scores import bootstrap_users, calibration, scores, within_users
from linear_time.records import Record, packed
from test_experiment_jobs import JOBS, caught, ratings, small

pytestmark = pytest.mark.usefixtures("no_gpu")

__all__ = ["ratings", "small"]  # fixtures
CPU = torch.device("cpu")
F64 = torch.float64


def ticking(durations):
    """A clock: two looks at it lie apart as long as the next of these."""
    return itertools.accumulate(x for t in durations for x in (1.0, t))


# --- ratings -------------------------------------------------------------------------------------


def test_the_time_of_a_training_step_is_the_median_after_five(ratings, monkeypatch):
    """With our searches and without, in turns."""
    d = ratings.data("user", CPU, True)
    asked, searched = [], []
    monkeypatch.setattr(ratings, "data", lambda *given: asked.append(given) or d)
    times = [*[(9.0, 90.0)] * 5, (1.0, 10.0), (5.0, 50.0), (2.0, 20.0)]
    clock = ticking(itertools.chain(*times))
    monkeypatch.setattr(ratings.time, "perf_counter", lambda: next(clock))
    real = ratings.ranker

    def ranker(*given):
        model = real(*given)
        model.register_forward_pre_hook(lambda *_: searched.append(checks._on))
        models.append((model, given[1:], [p.detach().clone() for p in model.parameters()]))
        return model

    models: list = []
    monkeypatch.setattr(ratings, "ranker", ranker)
    found = ratings.throughput("dcn", 4, CPU, 3)
    ((model, given, start),) = models
    assert given == ("dcn", 4) and asked == [("user", CPU)]
    assert searched == [False, True] * 8 and next(clock, None) is None
    moved = [torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True)]
    assert not all(moved)
    assert found == {
        **{"throughput": "dcn", "device": "cpu", "ms": 2000.0, "ms_with_checks": 20_000.0},
        "parameters": ratings.runs.count(model),
        "network_parameters": ratings.runs.count(model.network),
    }
    clock = ticking([0.00123456] * 14)
    assert ratings.throughput("logistic", 1, CPU, 2) == {
        **{"throughput": "logistic", "device": "cpu", "ms": 1.235, "ms_with_checks": 1.235},
        **{"parameters": ratings.runs.count(models[1][0]), "network_parameters": 0},
    }


def test_a_stack_without_memory_is_halved(ratings, monkeypatch):
    """And its halves, until they fit; the losses stand in the grid's order."""
    asked, emptied = [], []
    d = ratings.data("user", CPU, True)

    def fit_stack(build, settings, fields, label, split, epochs, batch, evaluations):
        assert (fields, label, split) == (d.fields, d.label, d.split)
        assert (epochs, batch, evaluations) == (1, 1024, 11)
        asked.append([s.weight_decay for s in settings])
        if len(settings) > most:
            raise torch.OutOfMemoryError("no memory")
        losses = [s.weight_decay if s.weight_decay < 9 else math.inf for s in settings]
        return SimpleNamespace(validation=torch.tensor(losses, dtype=F64))

    monkeypatch.setattr(ratings, "fit_stack", fit_stack)
    monkeypatch.setattr(ratings.torch.cuda, "empty_cache", lambda: emptied.append(1))
    decays = (0.0123456, 1.0, 2.0, 3.0, 10.0)
    given = [ratings.Setting(1e-2, decay, 0.1, 0.0, 0) for decay in decays]
    monkeypatch.setattr(ratings, "grid", lambda job: given)
    most = 2
    row = ratings.run(JOBS["movielens"][0])
    assert row["validation"] == [0.01235, 1.0, 2.0, 3.0, None]
    assert list(map(len, asked)) == [5, 2, 3, 1, 2] and len(emptied) == 2
    model = ratings.ranker(d.fields, "fm", 4)
    assert row["parameters"] == ratings.runs.count(model) and row["network_parameters"] == 0
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        ratings.run(JOBS["movielens"][0])


def some_rows(ratings, sizes=(160, 99, 120), ones=()):
    """120 users of four ratings; groups of so many rows, the last of one kind."""
    g = torch.Generator().manual_seed(0)
    n = 480
    label = torch.rand(n, generator=g) < 0.5
    rows = torch.arange(n).flip(0)[: n - 80]  # not the order of the table
    groups = {"all": torch.arange(len(rows))}
    for name, size in zip(("warm", "cold-user", "cold-movie"), sizes, strict=True):
        groups[name] = torch.randperm(len(rows), generator=g)[:size]
    for name in ones:
        label[rows[groups[name]]] = True
    user = torch.arange(n) // 4
    return ratings.Data(None, label, Split(rows[:0], rows[:0], rows), groups, user, user)


def test_what_is_scored_of_ratings(ratings):
    """By group, where there are a hundred rows of both kinds; within users; a line."""
    d = some_rows(ratings, (100, 99, 120), ("cold-movie",))
    rows, g = d.split.test, torch.Generator().manual_seed(1)
    logits = torch.randn(2, len(rows), generator=g) + 1.5 * d.label[rows]
    found = ratings.test_scores(logits, d)
    label, user = d.label[rows], d.user[rows]
    assert list(found) == ["all", "warm", "users", "line"]
    for name in ("all", "warm"):
        at = d.groups[name]
        own = [scores(one[at], label[at]) for one in logits]
        assert found[name] == {
            key: [round(getattr(one, key), 5) for one in own]
            for key in ("auc", "log_loss", "normalised_entropy")
        }
    within = [within_users(one, label, user) for one in logits]
    assert found["users"] == {
        key: [round(float(getattr(one, key).mean()), 5) for one in within]
        for key in ("auc", "ndcg")
    }
    assert found["line"] == [[round(x, 4) for x in calibration(one, label)] for one in logits]
    none = ratings.test_scores(logits, d._replace(label=~d.label))  # all of a kind: the other one
    assert list(none) == ["all", "warm", "users", "line"]


def test_a_difference_is_a_mean_over_seeds_of_both(ratings, monkeypatch):
    """On users that are drawn again; its error and interval are of these draws."""
    d = some_rows(ratings)
    rows, g = d.split.test, torch.Generator().manual_seed(2)
    logits = torch.randn(3, len(rows), generator=g) + d.label[rows]
    reference = torch.randn(2, len(rows), generator=g)
    monkeypatch.setattr(ratings, "DRAWS", 40)
    found = ratings.difference(logits, reference, d)
    both = torch.cat([reference, logits]).double()
    drawn = bootstrap_users(both, d.label[rows], d.user[rows], 40)
    assert list(found) == list(drawn._fields)
    for key, columns in drawn._asdict().items():
        change = columns[:, 2:].mean(1) - columns[:, :2].mean(1)
        assert found[key]["mean"] == round(float(change.mean()), 5)
        assert found[key]["error"] == round(float(change.std()), 5)
        low, high = (float(torch.quantile(change, q)) for q in (0.025, 0.975))
        assert found[key]["interval"] == [round(low, 5), round(high, 5)]
    one = ratings.difference(logits, reference[0], d)
    assert one == ratings.difference(logits, reference[:1], d) != found


def test_a_quick_sweep_of_ratings(ratings):
    """Two widths, one of all else: a minute on a CPU."""
    jobs = ratings.sweeps("dhen", "user", True)
    same = {"stage": "sweep", "protocol": "user", "model": "dhen", "quick": True}
    assert jobs == [
        {**same, "width": width, "epochs": 1, "dropout": 0.5, "rates": (1e-2,)}
        for width in (16, 32)
    ]
    assert ratings.grid(jobs[0]) == [ratings.Setting(1e-2, 0.01, 0.1, 0.5, 0)]
    (control,) = ratings.sweeps(ratings.CONTROL, "user", True)
    assert ratings.grid(control) == [ratings.Setting(1e-2, 0.01, 0.0, 0.5, 0)]
    (alone,) = ratings.sweeps("logistic", "user", True)
    assert (alone["width"], alone["dropout"]) == (1, 0.0)
    assert ratings.grid(alone) == [ratings.Setting(1e-2, 0.0, 0.1, 0.0, 0)]
    assert len(ratings.grid({**alone, "quick": False})) == 6  # the rate, and every decay


def test_the_longest_sweeps_and_runs_come_first(ratings):
    rows = [
        {**job, "validation": [0.5 + 0.01 * i for i in range(len(ratings.grid(job)))]}
        for job in ratings.sweeps("fm", "user", False)
    ]
    largest = [i for i, s in enumerate(ratings.grid(rows[0])) if s.lr == max(ratings.RATES)]
    rows[3]["validation"][largest[0]] = 0.1
    record = Record("", "", (), {}, tuple(rows))
    jobs = ratings.longer(record, [("fm", "user")], 0.06)
    cost = [job["width"] * job["epochs"] for job in jobs]
    assert cost == sorted(cost, reverse=True) and len(set(cost)) > 3
    baselines = [
        {"stage": "baseline", "protocol": protocol, "strength": strength, "quick": False}
        for protocol, strength in (("user", 1.5), ("time", 3.0))
    ]
    for at in (2, 9, 20):
        rows[at]["validation"][0] = 0.2
    later = [
        {**job, "validation": [0.5] * len(ratings.grid(job))}
        for job in ratings.sweeps("fm", "time", False)
    ]
    record = Record("", "", (), {}, (*baselines, *rows, *later))
    found = ratings.finals(record, [("fm", "user"), ("fm", "time")], (0, 1), False)
    widths = [job["width"] for job in found]
    assert widths == sorted(widths, reverse=True) and len(found) == 4  # three of user, one of time
    assert {(job["protocol"], job["strength"]) for job in found} == {("user", 1.5), ("time", 3.0)}


def test_a_quick_run_does_not_replace_the_record(ratings, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["movielens.py", "--quick"])
    with pytest.raises(SystemExit):
        ratings.main()
    assert "--quick needs --out: it must not replace the recorded runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "protocol", "kept"),
    [
        *(("final", "user", {"logit"}), ("final", "time", set())),
        *(("ablation", "user", {"logits"}), ("ablation", "time", {"logits"})),
    ],
)
def test_whose_logits_are_kept(ratings, monkeypatch, stage, protocol, kept):
    """Of a final run by user the first seed's; of an ablation all, until it is compared."""
    d = ratings.data(protocol, CPU, True)

    class Says(nn.Module):
        network = linear = None

        def __init__(self, fields, *given):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.all = torch.linspace(-3, 3, len(d.label)) * (1 + len(made))
            made.append(self)

        def logits(self, fields, rows):
            return self.all[rows]

    made: list = []
    history = SimpleNamespace(metric=np.array([0.7, 0.123456, 0.2]), eval_step=np.array([1, 2, 3]))
    monkeypatch.setattr(ratings, "ranker", Says)
    monkeypatch.setattr(ratings, "fit", lambda *given: history)
    job = {**JOBS["movielens"][1], "stage": stage, "protocol": protocol}
    row = ratings.run(job)
    assert {"logit", "logits"} & row.keys() == kept and len(made) == 2
    assert row["validation"] == [0.12346] * 2 and row["best_step"] == [2, 2]
    rows = d.split.test
    if "logit" in kept:
        assert row["logit"] == packed(made[0].all[rows])
    if "logits" in kept:
        assert row["logits"] == [packed(one.all[rows]) for one in made]


class Stop(Exception):
    """What is wanted is known."""


def test_what_is_timed_of_ratings(ratings, monkeypatch, tmp_path):
    """Each network at the width of the ablations; what a record has is not timed again."""
    asked, settings = [], []

    class Runner:
        def __init__(self, name, run, given, options):
            self.settings = dict(given)

        def before(self):
            return known

        def __call__(self, jobs):
            settings.append(self.settings)
            raise Stop

    def throughput(name, d, device, steps):
        asked.append((name, d, device, steps))
        return name

    monkeypatch.setattr(ratings.runs, "Runner", Runner)
    monkeypatch.setattr(ratings, "throughput", throughput)
    monkeypatch.setattr(ratings.torch, "set_num_threads", lambda n: asked.append(n))
    for quick, steps in (([], 40), (["--quick"], 5)):
        monkeypatch.setattr("sys.argv", ["movielens.py", "--out", str(tmp_path), *quick])
        known = None
        with pytest.raises(Stop):
            ratings.main()
        names = ["logistic", *ratings.NETWORKS]
        assert asked == [1, *((name, 16, CPU, steps) for name in names)]
        assert settings.pop()["throughput"] == names
        asked.clear()
    known = Record("", "", (), {"throughput": "timed"}, ({"a": 1},))
    asked.clear()
    with pytest.raises(Stop):
        ratings.main()
    assert settings.pop()["throughput"] == "timed" and not asked


# --- texts ---------------------------------------------------------------------------------------


def test_the_speed_of_a_language_model(small, monkeypatch):
    """Medians after two: of an update, and of ten characters that are generated one by one."""
    script = small("language_models")
    times = [9, 9, 3, 1, 2, *(90, 90, 5, 4, 20)]
    clock = ticking(map(float, times))
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(clock))
    stepped, trained = [], []
    real = script.model

    def model(*given):
        assert given[:2] == ("gru", "small")
        network = real(*given)
        step = network.step

        def counted(token, state):
            assert token.tolist() == [0] and not torch.is_grad_enabled()
            stepped.append(state)
            return step(token, state)

        network.step = counted
        network.register_forward_hook(lambda *given: trained.append(given[1][0].shape))
        return network

    monkeypatch.setattr(script, "model", model)
    found = script.run({"speed": "gru", "size": "small", "repeats": 3})
    size = script.SIZES["small"]
    wanted = {
        "update_s": 2.0,
        "training_characters_s": round(size.batch * size.length / 2),
        "generation_characters_s": round(10 / 5),
    }
    wanted |= {f"flops_{k}": v for k, v in script.flops("gru", "small", 4000).items()}
    assert found == wanted
    assert trained == [(size.batch, size.length)] * 5 and len(stepped) == 50
    assert not torch.equal(stepped[0][0], stepped[1][0])  # each goes on from the one before
    checks(values=True)


@pytest.mark.parametrize(("scan", "asked"), [("triton", True), ("plain", False)])
def test_an_update_is_timed_with_the_kernel_or_without(small, monkeypatch, scan, asked):
    script = small("language_models")
    told, suits = [], script.scan_triton.suits
    real = script.model

    def model(*given):
        told.append(script.scan_triton.suits is suits)
        network = real(*given)
        network.register_forward_hook(lambda *given: told.append(given[1][0].shape))
        return network

    monkeypatch.setattr(script, "model", model)
    job = {"update": "gru", "size": "small", "length": 8, "batch": 3, "repeats": 1, "scan": scan}
    found = script.run(job)
    assert list(found) == ["update_s"] and 0 < found["update_s"] < 10
    assert told == [asked, (3, 8), (3, 8), (3, 8)]
    assert script.scan_triton.suits is suits
    if not asked:
        monkeypatch.setattr(script, "model", lambda *_: told.append(script.scan_triton.suits(1, 2)))
        with pytest.raises(AttributeError):
            script.run(job)
        assert told[-1] is False
    checks(values=True)


@pytest.mark.parametrize("name", ["language_models", "selective_copying"])
def test_who_diverges_has_no_score(small, monkeypatch, name):
    """It is a result, too; of another error nothing is told."""
    script = small(name)
    job = JOBS[name][0]

    def train(*given):
        raise FloatingPointError("step 7: the loss is nan")

    monkeypatch.setattr(script, "train", train)
    found = script.run(dict(job))
    assert found.pop("parameters") > 1000
    if name == "language_models":
        none = {"diverged": "step 7: the loss is nan", "validation": None, "test": None}
    else:
        assert found.pop("width") == 32
        none = {"validation_loss": None, "tokens": 0.0, "sequences": 0.0, "curve": []}
    assert found == none
    checks(values=True)


def test_of_a_text_the_pieces_begin_anywhere(small):
    """The last character is the target of the last piece alone."""
    script = small("language_models")
    size = script.SIZES["small"]._replace(length=5, batch=7)
    generator = torch.Generator().manual_seed(0)
    stream = script.batches(torch.arange(12), size, generator)
    pieces = torch.cat([next(stream) for _ in range(40)])
    assert (pieces.diff(dim=1) == 1).all() and pieces.shape == (280, 6)
    assert sorted(set(pieces[:, 0].tolist())) == list(range(6))


def test_bits_of_a_part_by_position(small):
    """Positions 1, 2–3, 4–7, …: a model that is wrong at some of them shows where."""
    script = small("language_models")

    class Off(nn.Module):
        def forward(self, tokens):
            right = 200 * nn.functional.one_hot((tokens + 1) % 64, 64).double()
            right[:, [4, 5, 15]] = 0  # positions 5, 6 and 16, counted from 1: knows nothing
            return right

    part = torch.arange(33 * 16 + 1) % 64
    found = script.bits_by_position(Off(), part, 16)
    assert found == [0.0, 0.0, 3.0, 0.0, 6.0]


def test_the_models_of_later_chapters_have_one_size(small, monkeypatch, capsys, tmp_path):
    script = experiment("language_models")
    given = ["language_models.py", "--out", str(tmp_path), "--size", "small", "--only", "mamba-2"]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit):
        script.main()
    assert "have widths for the full size alone" in capsys.readouterr().err


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "sequences"), [(64, 512), (2**15, 512), (2**16, 256), (2**18, 64), (2**20, 32)]
)
def test_long_tests_have_fewer_sequences(small, monkeypatch, length, sequences):
    """Of 2²⁴ places in all, at least 32; read by sixteen at a time, in pieces of 2¹⁴."""
    script = small("paper_tables")
    asked, read = [], []

    def induction_heads(n, long, vocab_size, generator):
        asked.append((n, long, vocab_size, generator.initial_seed()))
        return torch.zeros(n, 1).expand(n, long), torch.zeros(n, 1, dtype=torch.int64).expand(n, 2)

    class Model:
        blocks = ()

        def prefill(self, part, state=None):
            read.append((tuple(part.shape), state))
            logits = torch.zeros(len(part), 4)
            logits[len(part) // 4 :, 1] = 1  # three of four are wrong
            return logits, len(read)

    monkeypatch.setattr(script, "induction_heads", induction_heads)
    table = script.SIZES["small"]["induction"]
    found = script.at_length(Model(), table, length, CPU)
    assert asked == [(sequences, length, 16, 10**6 + 1 + length)]
    assert found == {"right": 0.25, "sequences": sequences}
    pieces = max(1, length // 2**14)
    assert len(read) == sequences // 16 * pieces
    assert {shape for shape, _ in read} == {(16, min(length, 2**14))}
    states = [state for _, state in read]
    assert states[:pieces] == [None, *range(1, pieces)] and states[pieces] is None


def test_who_fails_is_not_asked_for_a_million(small, monkeypatch):
    """Half of the answers right, and every length is asked; else those to 4,096."""
    script = small("paper_tables")
    monkeypatch.setattr(
        script, "at_length", lambda model, table, n, device: None if n == 128 else n
    )
    table = script.SIZES["small"]["induction"]._replace(lengths=(64, 128, 4096, 4097, 2**20))
    monkeypatch.setattr(script, "SIZES", {"small": {"induction": table}})
    for share, lengths in ((0.5, [64, 4096]), (0.51, [64, 4096, 4097, 2**20])):
        monkeypatch.setattr(script, "score", lambda *given, s=share: (0.25, s, s / 2))
        (row,) = script.run([JOBS["paper_tables"][1]], math.inf, None)
        assert row["lengths"] == {str(n): n for n in lengths}
        assert (row["tokens"], row["sequences"], row["validation_loss"]) == (share, share / 2, 0.25)
    checks(values=True)


def test_the_training_loss_of_a_table_is_of_its_last_fifty_updates(small, monkeypatch):
    script = small("paper_tables")

    def trained(trainees, evaluate, *given):
        for trainee in trainees:
            trainee.done = trainee.config.steps
            trainee.losses[1:] = torch.arange(1.0, trainee.config.steps + 1)
            evaluate(trainee)
        return True

    monkeypatch.setattr(script.side_by_side, "train_side_by_side", trained)
    for steps, mean in ((200, 175.5), (50, 25.5), (3, 2.0)):
        (row,) = script.run([{**JOBS["paper_tables"][0], "steps": steps}], math.inf, None)
        assert row["training_loss"] == mean and row["updates"] == steps
        assert [at for at, *_ in row["curve"]] == [steps]
    checks(values=True)


@pytest.mark.parametrize("name", ["recall", "hybrids", "paper_tables"])
@pytest.mark.parametrize("curve", [True, False])
def test_who_diverged_beside_others_has_no_score(small, monkeypatch, name, curve):
    """Neither has who was not evaluated."""
    script = small(name)
    job = {"recall": {**JOBS["recall"][9], "steps": 4}, "hybrids": JOBS["hybrids"][1],
           "paper_tables": JOBS["paper_tables"][0]}[name]  # fmt: skip
    assert name != "recall" or job["size"] == "full"

    def trained(trainees, evaluate, *given):
        for trainee in trainees:
            trainee.done = 2
            trainee.losses[1:] = 1.0
            if curve:
                evaluate(trainee)
                trainee.losses[2] = math.nan
        return True

    monkeypatch.setattr(script.side_by_side, "train_side_by_side", trained)
    more = {"folder": None} if name == "paper_tables" else {}
    (row,) = script.run([job], math.inf, **more)
    assert row["updates"] == 2 and len(row["curve"]) == (1 if curve else 0)
    if name == "hybrids":
        assert row["validation"] is None is row["test"]
    else:
        assert row["validation_loss"] is None and row["tokens"] == row["sequences"] == 0.0
    checks(values=True)


# --- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "at"), [(600, range(75, 601, 75)), (5, range(1, 6))])
@pytest.mark.bad_input  # jaxtyping cannot look inside vmap
def test_a_stack_s_scores_are_of_its_networks(small, monkeypatch, steps, at):
    """Looked at eight times on the validation sequences; who diverged has none, nor a curve."""
    script = small("recall")
    size = script.SIZES["small"]
    job = {**JOBS["recall"][0], "steps": steps}
    jobs = [{**job, "seed": seed} for seed in (0, 1, 2)]
    losses = torch.ones(steps, 3)
    losses[-1, 1] = math.nan
    given = {}

    def train_stack(networks, data, rows, configs, seconds, after):
        def stack(x):
            """Network 0 knows the validation, 1 nothing, 2 the test but one answer of each."""
            length = size.tasks["twice, 8"].length
            out = torch.zeros(3, x.shape[1], 4, size.vocab_size)
            for row in range(x.shape[1]):
                key = x[0, row, :length].numpy().tobytes()
                for i, of in ((0, script.VALIDATION), (2, script.TEST)):
                    if key in known[of]:
                        out[i, row, torch.arange(4), known[of][key]] = 50.0
                        if i == 2:
                            out[i, row, 3] = 0.0
            return out

        known = {}
        for of in (script.VALIDATION, script.TEST):
            generator = torch.Generator().manual_seed(of)
            task = size.tasks["twice, 8"]
            tokens, _, right = script.drawn(task, size.vocab_size, size.evaluated, generator)
            known[of] = {row.numpy().tobytes(): own for row, own in zip(tokens, right, strict=True)}
        given["stack"] = stack
        for step in range(1, steps + 1):
            after(step, stack)
        return stack, losses

    monkeypatch.setattr(script, "train_stack", train_stack)
    first, second, third = script.run(jobs, math.inf)
    assert [row[0] for row in first["curve"]] == list(at)
    assert all(row[1] < 1e-6 and row[2:] == [1.0, 1.0] for row in first["curve"])
    assert (first["validation_loss"], first["sequences"]) == (0.0, 0.0) and first["tokens"] < 0.2
    none = {"validation_loss": None, "tokens": 0.0, "sequences": 0.0, "curve": []}
    assert {key: second[key] for key in none} == none and second["updates"] == steps
    guess = math.log(size.vocab_size)
    assert third["validation_loss"] == pytest.approx(guess, abs=1e-3)
    assert 0.75 <= third["tokens"] < 0.8 and third["sequences"] < 0.2
    assert third["state"] == 256
    checks(values=True)


def test_of_a_row_the_logits_are_where_it_asks(small):
    script = small("recall")
    size = script.SIZES["small"]
    torch.manual_seed(0)
    network = script.network(size, "DeltaNet").eval()
    task = size.tasks["twice, 8"]
    tokens, places, _ = script.drawn(task, 64, 3, torch.Generator().manual_seed(1))
    asked = script.Asked(network, task.length)(torch.cat([tokens, places], 1))
    wanted = network(tokens).gather(1, places[..., None].expand(-1, -1, 64))
    torch.testing.assert_close(asked, wanted)


@pytest.mark.parametrize("twice", [False, True])
def test_the_numbers_of_a_state(small, twice):
    script = small("recall")
    for size in script.SIZES.values():
        for model in script.MODELS:
            wanted = 2 * size.width * 40 if model == "attention" else size.n_state
            assert script.state(size, model, 40) == wanted


# --- looks into a layer ---------------------------------------------------------------------------


def test_three_digits_of_every_number():
    script = experiment("selective_steps")
    x = torch.tensor([[1.23456, 0.00123456], [123456.0, -9.8765]])
    assert script.rounded(x) == [[1.23, 0.00123], [123000.0, -9.88]]
    assert script.rounded(torch.tensor(2.0)) == 2.0


def test_what_a_token_leaves_and_writes():
    """e^{Δ A} of the state is left; Δ x B is written: means over channels, states and tokens."""
    script = experiment("selective_steps")
    torch.manual_seed(0)
    mixer = script.network("S6", 8, script.SIZES["full"]).blocks[0].mixer
    x = torch.randn(2, 9, 8)
    tokens = torch.randint(16, (2, 9))
    tokens[0, :3] = torch.tensor([0, 15, 7])
    kinds = script.kinds_of(tokens, 16)
    with torch.no_grad():
        found = script.look(mixer, x, kinds)
        delta, B, _ = mixer.select(x)
    assert list(found) == ["delta", "kept", "written"]
    for name, at in (("noise", tokens == 0), ("marker", tokens == 15)):
        kept, written, steps = [], [], []
        for b, t in at.nonzero().tolist():
            d, A = delta[b, t].detach(), mixer.A.detach()
            kept.append(torch.exp(d[:, None] * A).mean())
            written.append((d[:, None] * x[b, t][:, None] * B[b, t][None]).abs().mean())
            steps.append(d)
        assert found["kept"][name] == pytest.approx(float(sum(kept) / len(kept)), rel=6e-3)
        assert found["written"][name] == pytest.approx(float(sum(written) / len(written)), rel=6e-3)
        mean = (sum(steps) / len(steps)).tolist()
        assert found["delta"][name] == pytest.approx(mean, rel=6e-3)


@pytest.mark.parametrize(
    ("model", "length", "seed", "every"),
    [
        ("S6", 64, 0, True),
        ("S6", 20, 0, False),
        ("only Δ selected", 64, 0, False),
        ("S6", 64, 2, None),
    ],
)
def test_what_is_kept_of_the_first_seed(monkeypatch, model, length, seed, every):
    """Three sequences and their mean steps, geometric; of one setting every channel's."""
    script = experiment("selective_steps")
    monkeypatch.setattr(script, "EVALUATED", 6)
    torch.manual_seed(0)
    network = script.network(model, 8, script.SIZES["full"]).eval()

    def test_of(n):
        generator = torch.Generator().manual_seed(n)
        return script.selective_copying(6, n, 3, 16, generator=generator)

    with torch.no_grad():
        found = script.look_into(network, {"model": model, "length": length, "seed": seed}, test_of)
        tokens = test_of(length)[0]
        with script.inputs_of(network) as inputs:
            network(tokens)
        steps = [m.select(x[:3])[0] for m, x in zip(script.mixers(network), inputs, strict=True)]
    assert ("tokens" in found) == (seed == 0) and ("every_delta" in found) == (every is True)
    if seed:
        return
    assert found["tokens"] == tokens[:3].tolist()
    for own, delta in zip(found["mean_delta"], steps, strict=True):
        wanted = delta.log().mean(-1).exp()
        assert torch.allclose(torch.tensor(own), wanted, rtol=6e-3)
    if every:
        for own, delta in zip(found["every_delta"], steps, strict=True):
            assert torch.allclose(torch.tensor(own), delta[0].mT, rtol=6e-3)


def test_the_rate_that_the_comparison_chose():
    script, record = experiment("selective_steps"), records.read("selective_copying")
    for length, models in script.MODELS.items():
        for model in models:
            rows = [r for r in record if (r["length"], r["model"]) == (length, model)]
            losses = {
                lr: sum(r["validation_loss"] for r in rows if r["lr"] == lr)
                for lr in {r["lr"] for r in rows}
            }
            assert script.rate(length, model) == min(losses, key=losses.__getitem__)


# --- digits, histories ----------------------------------------------------------------------------


def test_a_stack_of_digits_is_of_one_shape():
    script = experiment("sequential_digits")
    same = {"size": 8, "read": "mean"}
    of = [{**same, "model": m, "N": N} for m, N in script.MODELS]
    keys = [script.stack_of(job) for job in of]
    assert len(set(keys)) == len(of) - 1  # the two GRUs are of one
    assert script.stack_of(of[3]) == script.stack_of(of[4]) == (8, "mean", "gru", None)
    assert script.stack_of({**of[0], "size": 32}) == (32, "mean", "s4d-lin", 64)


def test_digits_that_have_no_time_are_not_begun(monkeypatch):
    """Ten seconds are left to measure in."""
    script = experiment("sequential_digits")
    monkeypatch.setattr(script, "time", SimpleNamespace(monotonic=lambda: 100.0))
    monkeypatch.setattr(script, "UNTIL", 109.9)
    assert script.run([]) is None
    monkeypatch.setattr(script, "UNTIL", 110.0)
    with pytest.raises(IndexError):
        script.run([])


def test_a_network_of_digits_that_diverged_has_no_score(monkeypatch):
    """By its logits or by its loss; the one beside it has."""
    script = experiment("sequential_digits")
    given = []

    def train_stack(networks, data, rows, configs, seconds):
        def stack(x):
            y = torch.zeros(3, x.shape[1], 10)
            y[0, :, 0] = math.nan
            return y

        losses = torch.ones(60, 3)
        losses[:10, 2] = 7.0  # before the last fifty
        losses[-1, 1] = math.nan
        given.append(losses)
        return stack, losses

    monkeypatch.setattr(script, "train_stack", train_stack)
    job = JOBS["sequential_digits"][0]
    with checks(values=False):
        rows = script.run([{**job, "seed": seed} for seed in range(3)])
    for row in rows[:2]:
        assert row["test"] == {"accuracy": None, "loss": None, "wrong": None}
        assert row["validation"] == {"accuracy": None, "loss": None} and row["loss"] is None
    assert rows[2]["loss"] == 1.0 and rows[2]["test"]["loss"] == pytest.approx(2.30259)
    assert 0.05 < rows[2]["test"]["accuracy"] < 0.15


@pytest.mark.parametrize("target", ["answers", "ratings"])
def test_the_error_of_a_share_is_by_its_users(target, monkeypatch):
    """The jackknife, written out: each user is left out once."""
    script = experiment("perceiver_history")
    g = torch.Generator().manual_seed(0)
    users = torch.tensor([7, 3, 3, 9, 7, 11])
    batch = {"users": users, "ratings": torch.randn(6, 2, generator=g)}
    batch["answers"] = torch.randn(6, 2, 3, generator=g)
    train = {"answers": torch.randn(5, 2, 3, generator=g) + 1}
    wrong = torch.rand(6, 2, generator=g)
    monkeypatch.setattr(script, "data", lambda: {"train": train, "test": batch})
    monkeypatch.setattr(script, "errors", lambda network, given, of: wrong)
    found, error = script.share(None, "test", target)
    power = batch[target]
    if target == "answers":
        power = (power - train["answers"].mean((0, 1))).square().sum(-1)
    else:
        power = power.square()

    def share(at):
        return 1 - float(wrong[at].sum() / power[at].sum())

    n = 4
    one_left_out = torch.tensor([share(users != u) for u in users.unique()], dtype=F64)
    variance = (n - 1) / n * (one_left_out - one_left_out.mean()).square().sum()
    assert found == pytest.approx(share(users >= 0), rel=1e-4)
    assert error == pytest.approx(float(variance.sqrt()), rel=1e-3)


def test_the_rating_of_a_candidate():
    """Its popularity by a level, the mean product with what was read of movies, and what else."""
    script = experiment("perceiver_history")
    torch.manual_seed(0)
    reader = script.Reader("none", 0, "plain")
    batch = {"candidates": torch.randn(2, 3, 16), "liked": torch.randn(2, 3)}
    with torch.no_grad():
        reader.level.fill_(2.5)
        read = reader(batch)
        assert torch.equal(read, reader.direct(batch["candidates"]))
        fits = (read[..., :16] * batch["candidates"]).mean(-1)
        wanted = 2.5 * batch["liked"] + fits + read[..., 16]
        torch.testing.assert_close(reader.rating(batch), wanted)
    assert script.Reader("none", 0, "plain").level == 1


def test_windows_of_a_text_are_spread_over_all_of_it(small):
    """From the first that has the longest context to the part's end, in parts of 32."""
    script = experiment("perceiver_ar")
    read = []

    class Reads(nn.Module):
        def forward(self, tokens):
            read.append(tokens)
            return torch.zeros(*tokens.shape, 4)

    part = torch.arange(2000)
    found = script.bits(Reads(), part % 4, 40, 70)
    assert len(found) == 3 and found == pytest.approx([2.0] * 3)
    read.clear()
    with pytest.raises(IndexError):  # classes beyond: the windows are known by then
        script.bits(Reads(), part, 40, 70)
    (first,) = read
    assert first.shape == (32, 40)
    ends = torch.linspace(257, 2000, 70).long()
    assert first[:, -1].tolist() == (ends[:32] - 2).tolist()
    assert script.mean([1.0, 2.0, 6.0]) == 3.0


def test_the_shapes_of_a_budget(monkeypatch, tmp_path):
    """Each in batches that give 1,024 losses, and in batches of 16 where that is another."""
    script, asked = experiment("perceiver_ar"), []

    class Runner:
        def __init__(self, name, run, settings, options):
            self.settings = settings

        def __call__(self, jobs):
            asked.extend(jobs)

    monkeypatch.setattr(script.runs, "Runner", Runner)
    monkeypatch.setattr("sys.argv", ["perceiver_ar.py", "--out", str(tmp_path), "--seeds", "2"])
    script.main()
    found = {(job["M"], job["N"], job["batch"]) for job in asked}
    equal = {(256, 256, 4), (256, 128, 8), (256, 64, 16), (128, 128, 8), (64, 64, 16)}
    assert found == equal | {(256, 256, 16), (256, 128, 16), (128, 128, 16)}
    assert all(job["batch"] * job["N"] == 1024 for job in asked[:25])
    assert len(asked) == 8 * 5 and {job["seed"] for job in asked} == {2}
    assert json.loads(json.dumps(asked)) == asked


def test_a_job_of_pyramids_is_of_its_task(small, monkeypatch):
    """Scaled by the training part's power; each batch is drawn with replacement."""
    script = small("pyramid")
    found = caught(script, monkeypatch, JOBS["pyramid"][1])
    (x, y), *_ = found.some(1)
    assert torch.equal(x, y) and len(x) == 128
    power = float(script.patches()["train"].square().mean())
    zero = found.loss(lambda x: torch.zeros_like(x), (x, y))
    assert torch.allclose(zero, x.square().mean((1, 2)) / power)


# --- as many at once as fit -----------------------------------------------------------------------


class Sizes(nn.Module):
    """How many rows it was given at once."""

    def __init__(self, kinds=4):
        super().__init__()
        self.kinds, self.rows = kinds, []

    def forward(self, tokens):
        self.rows.append(len(tokens))
        return torch.zeros(*tokens.shape, self.kinds)


def test_windows_that_are_read_at_once(small):
    script, part = small("language_models"), torch.zeros(301, dtype=torch.int64)
    model = Sizes()
    assert script.bits(model, part, 2) == pytest.approx(2)
    assert model.rows == [128, 128, 43]  # of 299, one every half of a length
    model = Sizes()
    script.bits_by_position(model, part, 8)
    assert model.rows == [16, 16, 5]


def test_sequences_that_are_scored_at_once(small, monkeypatch):
    """256; of the tables as many as have 2²⁴ numbers, at most all."""
    asked = []

    def trained(trainees, evaluate, *given):
        for trainee in trainees:
            trainee.losses[1:] = 1.0
            trainee.done = trainee.config.steps
            evaluate(trainee)
        return True

    def score(model, sequences, rows):
        asked.append(rows)
        return 1.0, 0.25, 0.125

    for name, job in (("recall", JOBS["recall"][9]), ("hybrids", JOBS["hybrids"][1])):
        script = small(name)
        monkeypatch.setattr(script.paper_tables, "score", score)
        monkeypatch.setattr(script.side_by_side, "train_side_by_side", trained)
        assert script.run([job], math.inf) and set(asked) == {256}
        asked.clear()
    script, job = small("paper_tables"), JOBS["paper_tables"][1]
    monkeypatch.setattr(script, "score", score)
    table = script.SIZES["small"]["induction"]._replace(lengths=())
    monkeypatch.setattr(script, "SIZES", {"small": {"induction": table}})
    for length, wanted in ((32, 32), (2**16, 16), (2**17, 8)):
        assert script.run([{**job, "length": length}], math.inf, None)
        assert asked == [wanted, wanted]
        asked.clear()
    checks(values=True)


def test_networks_of_a_stack_are_scored_by_256_sequences(small, monkeypatch):
    script, rows = small("recall"), []
    size = script.SIZES["small"]._replace(evaluated=300)
    monkeypatch.setattr(script, "SIZES", {"small": size})

    def train_stack(networks, data, at, configs, seconds, after):
        def stack(x):
            rows.append(tuple(x.shape[:2]))
            return torch.zeros(1, x.shape[1], 4, size.vocab_size)

        return stack, torch.ones(2, 1)

    monkeypatch.setattr(script, "train_stack", train_stack)
    script.run([JOBS["recall"][0]], math.inf)
    assert rows == [(1, 256), (1, 44)] * 2
    checks(values=True)


def test_the_chunks_of_a_recurrence(monkeypatch):
    """32 steps; where each channel has its decay an eighth of the length, from 4 to 16."""
    script = experiment("recall")
    found = [script.by_channels(length) for length in (1, 3, 7, 31, 40, 64, 127, 128, 1000)]
    assert found == [1, 3, 4, 4, 5, 8, 15, 16, 16]
    seen, pairs = [], script.pairs
    monkeypatch.setattr(script, "pairs", lambda *g: seen.append(g[2].shape[-2]) or pairs(*g))
    x = torch.randn(1, 1, 100, 6)
    script.recurrence(x, x, x, 0 * x[..., :1])
    script.recurrence(x, x, x, 0 * x)
    script.recurrence(x, x, x, 0 * x, chunk=7)
    script.recurrence(x[:, :, :9], *[x[:, :, :9]] * 2, 0 * x[:, :, :9, :1])
    script.rwkv7(x, x, x, 0 * x, x, x)
    assert seen == [32, 12, 7, 9, *[12] * 4]


def test_on_the_way_128_sequences_are_looked_at(small, monkeypatch):
    script = small("selective_copying")
    monkeypatch.setattr(script, "EVALUATED", 200)
    found = caught(script, monkeypatch, JOBS["selective_copying"][0])
    model = Sizes(16)
    assert 0 <= found.evaluate(model) <= 1 and sum(model.rows) == 128
    checks(values=True)


def test_a_width_is_looked_for_from_a_quarter_to_twice(monkeypatch):
    """Of S6's: the nearest number of parameters."""
    script = experiment("selective_copying")
    monkeypatch.setattr(script, "network", lambda name, width, size: (name, width))
    for size, wide in (("full", 64), ("small", 32)):
        for wanted, width in ((0, wide // 4), (40.4, 40), (1000, 2 * wide - 1)):
            count = lambda made, n=wanted: n if made[0] == "S6" else made[1]  # noqa: E731
            monkeypatch.setattr(script.runs, "count", count)
            assert script.width.__wrapped__("fixed", size) == width


def test_a_hybrid_s_text_is_drawn_from_all_of_its_part(small, monkeypatch):
    """And evaluated on 64 pieces on the way."""
    script = small("hybrids")
    text = script.Text(CPU, "small", 3)
    text.training = torch.arange(40)
    (pieces,) = text.draw(torch.Generator().manual_seed(0), 300)
    assert sorted(set(pieces[..., 0].flatten().tolist())) == list(range(23))
    text.size = text.size._replace(length=2)
    model = Sizes()
    text.validation = torch.zeros(200, dtype=torch.int64)
    assert text.metric(model) == pytest.approx([2.0], abs=1e-5)
    assert sum(model.rows) == 127  # of 129 characters, each of three and one further


def test_a_hybrid_s_graphs_give_back_their_memory(monkeypatch):
    script, told = experiment("hybrids"), []
    monkeypatch.setattr(script.side_by_side.Trainee, "record", lambda self: told.append("record"))
    monkeypatch.setattr(script.torch.cuda, "empty_cache", lambda: told.append("emptied"))
    one = object.__new__(script.Trainee)
    for one.on_gpu in (False, True):
        one.record()
    assert told == ["record", "record", "emptied"]


# --- what is told at once -------------------------------------------------------------------------


def test_a_network_that_cannot_be_recorded_is_trained_as_it_is(small, monkeypatch):
    """And that is told at once."""
    script, told = small("selective_steps"), []

    def graphed(network, tokens):
        assert tokens.shape == (64, 72)
        raise RuntimeError("no graph")

    def train(model, batches, loss, config):
        raise Stop(model, config)

    monkeypatch.setattr(
        script, "print", lambda *said, **how: told.append((said, how)), raising=False
    )
    monkeypatch.setattr(script.runs, "graphed", graphed)
    monkeypatch.setattr(script, "train", train)
    with pytest.raises(Stop) as found:
        script.run(JOBS["selective_steps"][0])
    model, config = found.value.args
    assert isinstance(model, nn.Module) and config.eval_every is None and config.warmup == 2
    assert told == [(("without graphs: no graph",), {"flush": True})]
    checks(values=True)


def test_the_nearest_pixel_is_near_in_the_image(monkeypatch):
    """Rows and columns from −1 to 1: of those asked for, and of those that are read."""
    script, asked = experiment("perceiver_io"), []
    parts = script.data(CPU)
    x, y = parts["test"]
    cdist = torch.cdist
    monkeypatch.setattr(script.torch, "cdist", lambda *of: asked.append(of) or cdist(*of))
    script.baselines({**parts, "test": (x[:9], y[:9])})
    order = script.choose(9, torch.Generator().manual_seed(0))
    places = torch.stack([order // 8, order % 8], -1) / 3.5 - 1
    ((unseen, seen),) = asked
    torch.testing.assert_close(seen, places[:, :24])
    torch.testing.assert_close(unseen, places[:, 24:])


def test_what_is_timed_is_drawn_by_seed_0(small, monkeypatch):
    script, seeds = small("language_models"), []
    batches = script.batches

    def drawn(training, size, generator):
        seeds.append((generator.initial_seed(), torch.initial_seed()))
        return batches(training, size, generator)

    monkeypatch.setattr(script, "batches", drawn)
    script.run({"speed": "gru", "size": "small", "repeats": 1})
    job = {"update": "gru", "size": "small", "length": 8, "batch": 3, "repeats": 1}
    script.run({**job, "scan": "triton"})
    assert seeds == [(0, 0), (0, 0)]
    checks(values=True)


def test_how_far_it_is_is_told_at_once(monkeypatch, tmp_path):
    runs, told = experiment("runs"), []
    monkeypatch.setattr(runs, "print", lambda *said, **how: told.append((said, how)), raising=False)
    options = runs.parser("", [0]).parse_args(["--out", str(tmp_path)])
    run_all = runs.Runner("some", lambda group: [{} for _ in group], {}, options)
    run_all.together([{"n": 1}, {"n": 2}], lambda job: "all")
    first, of_group, seconds = told
    assert first == (("2 runs, 0 done before",), {"flush": True})
    assert of_group == (("all", 2, "runs", True), {"end": ", "})
    assert seconds == (("0 s",), {"flush": True})
    told.clear()

    class Pool:
        def Pool(self, workers):
            return contextlib.nullcontext(self)

        def imap_unordered(self, work, tasks):
            return [{"n": 3}]

        def close(self):
            pass

        join = close

    monkeypatch.setattr(runs.multiprocessing, "get_context", lambda kind: Pool())
    run_all([{"n": 3}])
    assert told[1:] == [(("1/1 runs, 0 s",), {"flush": True})]
