"""Chapter 07: which interaction does a ranking need? Seven models on MovieLens, two protocols.

Is a rating four stars or more? Every model is told the same six fields (user, movie, release, age,
hour, genres) and has the same embedding of 16 numbers a value, logistic regression apart; the
networks behind it have the same number of parameters to within 3 %. Each has its learning rate
chosen from the same four by validation loss, and each run is read at its best epoch in validation
(early stopping). Protocols: "user" holds out the last fifth of each user's ratings, "time" all
ratings after a date; there rows are also scored apart: warm (user and movie occur in training),
cold-user, and cold-movie (known user, unknown movie). An ablation takes the modules of DHEN away,
one at a time, and varies its depth.

`--quick` is one seed, one learning rate and one epoch: a minute on a CPU, and no evidence.
"""

import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import runs
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from linear_time.compression import LinearCompression
from linear_time.datasets import movielens
from linear_time.dhen import (
    DHEN,
    MLP,
    CrossNetwork,
    DHENLayer,
    FactorizationMachine,
    SelfAttention,
    Wukong,
    factorization_machine,
    mlp,
)
from linear_time.ranking import (
    Fields,
    Ranker,
    Split,
    fit,
    global_time_split,
    movielens_fields,
    per_user_split,
    scores,
    seen,
    smoothed_rate,
)
from linear_time.records import Record
from linear_time.training import Config, seed_everything

D = 16
N_FIELDS = 6
MODULES = ("fm", "cross", "attention", "lce", "mlp")
MODELS = ("logistic", "fm", "mlp", "dcn", "lce", "dhen", "wukong")
ABLATIONS = (*(f"dhen without {m}" for m in MODULES), *(f"dhen depth {n}" for n in (1, 3, 4)))
PROTOCOLS = ("user", "time")
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2, 3, 4)
EPOCHS, BATCH, WEIGHT_DECAY = 6, 1024, 0.1
GROUPS = ("all", "warm", "cold-user", "cold-movie")


class Pairs(nn.Module):
    """The second-order term of a factorization machine."""

    def forward(self, x: Tensor) -> Tensor:
        return factorization_machine(x).sum(1, keepdim=True)


def ranker(fields: Fields, name: str) -> Ranker:
    if name == "logistic":
        return Ranker(fields, linear=True)
    if name == "fm":
        return Ranker(fields, Pairs, D, linear=True, scale=1)
    return Ranker(fields, functools.partial(network, name), D)


def network(name: str) -> nn.Module:
    """(batch, 6, 16) → (batch, 1): about 40,000 parameters, ablations apart."""
    flat = N_FIELDS * D
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), mlp(flat, (156, 156), 1))
    if name == "dcn":
        return nn.Sequential(
            CrossNetwork(N_FIELDS, N_FIELDS, D, depth=3), nn.Flatten(), mlp(flat, (123,), 1)
        )
    if name == "lce":
        return nn.Sequential(
            LinearCompression(N_FIELDS, 4), nn.Flatten(), mlp(4 * D, (171, 170), 1)
        )
    if name == "wukong":
        machine = {"n_fm": 3, "n_lcb": 3, "rank": 4, "hidden": (180,)}
        stack = Wukong(N_FIELDS, D, depth=3, **machine)
        return nn.Sequential(stack, nn.Flatten(), nn.Linear(flat, 1))
    words = name.split()
    without = words[2] if "without" in words else None
    depth = int(words[2]) if "depth" in words else 2
    stack = DHEN(functools.partial(dhen_layer, without), N_FIELDS, D, depth)
    return nn.Sequential(stack, nn.Flatten(), nn.Linear(flat, 1))


def dhen_layer(without: str | None, n: int) -> DHENLayer:
    """The five modules side by side but one; each gives six tokens, and they are summed."""
    made: dict[str, Callable[[], Any]] = {
        "fm": lambda: FactorizationMachine(n, N_FIELDS, D, rank=4, hidden=(24,)),
        "cross": lambda: CrossNetwork(n, N_FIELDS, D),
        "attention": lambda: SelfAttention(n, N_FIELDS, D, n_heads=2),
        "lce": lambda: LinearCompression(n, N_FIELDS),
        "mlp": lambda: MLP(n, N_FIELDS, D, (32,)),
    }
    return DHENLayer([made[m]() for m in MODULES if m != without], D, "weighted")


class Data(NamedTuple):
    fields: Fields
    label: Tensor
    split: Split
    groups: dict[str, Tensor]  # rows of the test part
    user: Tensor
    movie: Tensor


@functools.lru_cache
def data(protocol: str, device: torch.device) -> Data:
    """All rows on the device: they are few."""
    ml = movielens()
    if protocol == "user":
        split = per_user_split(ml.user, ml.timestamp)
    else:
        split = global_time_split(ml.timestamp)
    fields = movielens_fields(ml, split.train)
    fields = fields._replace(codes=fields.codes.to(device), genres=fields.genres.to(device))
    user, movie = (seen(value, split.train)[split.test] for value in (ml.user, ml.movie))
    kept = {"all": user | ~user, "warm": user & movie, "cold-user": ~user}
    kept["cold-movie"] = user & ~movie
    return Data(
        fields,
        ml.liked.to(device),
        Split(*(rows.to(device) for rows in split)),
        {name: split.test[kept[name]].to(device) for name in GROUPS},
        ml.user,
        ml.movie,
    )


def test_scores(logit: Tensor, d: Data) -> dict[str, Any]:
    """Scores of each group of test rows that has rows of both kinds; logits are of all rows."""
    scored = {}
    for name, rows in d.groups.items():
        label = d.label[rows]
        if 0 < int(label.sum()) < len(label):
            made = scores(logit[rows], label)._asdict()
            scored[name] = {k: round(v, 5) for k, v in made.items()}
    return scored


def run(job: dict) -> dict:
    device = runs.device()
    d = data(job["protocol"], device)
    if job["model"].startswith("rate"):
        return baseline(job["model"], d)
    seed_everything(job["seed"])
    model = ranker(d.fields, job["model"]).to(device)
    steps_an_epoch = math.ceil(len(d.split.train) / BATCH)
    config = Config(
        steps=job["epochs"] * steps_an_epoch,
        lr=job["lr"],
        warmup=20,
        weight_decay=WEIGHT_DECAY,
        seed=job["seed"],
        eval_every=steps_an_epoch,
        progress=False,
    )
    history = fit(model, d.fields, d.label, d.split, config, BATCH)
    model.eval()
    with torch.no_grad():
        # Only the test rows' logits are computed; the rest of this vector is never read.
        logit = torch.zeros(len(d.label), device=device)
        logit[d.split.test] = model.logits(d.fields, d.split.test)
    return {
        "parameters": runs.count(model),
        "network_parameters": runs.count(model.network) if model.network else 0,
        "validation": round(float(history.metric.min()), 5),
        "best_epoch": int(history.metric.argmin()) + 1,
        "curve": [round(float(m), 5) for m in history.metric],
        "test": test_scores(logit, d),
    }


def baseline(name: str, d: Data) -> dict:
    """What needs no gradient: the movie's rate, the user's rate, and mere popularity."""
    label, rows = d.label.cpu(), d.split.train.cpu()
    if name == "rate of the movie's popularity":
        # How often the movie was rated, whatever the stars: one number, calibrated.
        ratings = torch.bincount(d.movie[rows], minlength=int(d.movie.max()) + 1)
        popularity = (1 + ratings[d.movie].double()).log()[:, None].numpy()
        fitted = LogisticRegression(C=1e6).fit(popularity[rows], label[rows].numpy())
        logit = torch.from_numpy(fitted.decision_function(popularity))
    else:
        value = d.movie if name == "rate of the movie" else d.user
        logit = torch.logit(smoothed_rate(value, label, rows))
    logit = logit.to(d.label.device)
    held_out = d.split.validation
    found = scores(logit[held_out], d.label[held_out]).log_loss
    return {"parameters": 0, "validation": round(found, 5), "test": test_scores(logit, d)}


def throughput(name: str, steps: int) -> dict:
    """Rows a second of a training step (forward, backward, AdamW), alone on the device."""
    device = runs.device()
    d = data("user", device)
    seed_everything(0)
    model = ranker(d.fields, name).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    at = d.split.train[:BATCH]
    codes, genres, label = d.fields.codes[at], d.fields.genres[at], d.label[at].float()
    times = []
    for _ in range(steps + 5):  # the first few warm up
        begin = time.perf_counter()
        logit = model(codes, genres)
        nn.functional.binary_cross_entropy_with_logits(logit, label).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    median = statistics.median(times[5:])
    return {
        "throughput": name,
        "rows_a_second": round(BATCH / median),
        "ms": round(1e3 * median, 3),
    }


def report(record: Record) -> None:
    """The mean and its standard error over the seeds."""
    for protocol, of_protocol in record.by("protocol").items():
        print(f"\n{protocol}: test AUC, normalised entropy; mean ± standard error")
        for name, own in of_protocol.by("model").items():
            picked = own.chosen("validation")
            cells = []
            for group in picked[0]["test"]:
                for key in ("auc", "normalised_entropy"):
                    values = picked.values(f"test.{group}.{key}")
                    spread = statistics.stdev(values) if len(values) > 1 else math.nan
                    error = spread / math.sqrt(len(values))
                    cells.append(f"{statistics.mean(values):.4f} ± {error:.4f}")
            rate = picked[0].get("lr", "")
            print(f"{name:32} {picked[0]['parameters']:>8} {rate!s:>6}  " + "  ".join(cells))


def main() -> None:
    parser = runs.parser(__doc__, SEEDS, workers=8 if torch.cuda.is_available() else 2)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rates, seeds, epochs = LEARNING_RATES, options.seeds, options.epochs
    if options.quick:
        rates, epochs = rates[1:2], 1
        options.seeds = seeds = seeds[:1]
    rate_names = ("rate of the movie", "rate of the movie's popularity", "rate of the user")
    jobs: list[dict] = [{"protocol": p, "model": m} for p in PROTOCOLS for m in rate_names]
    pairs = [(p, m) for p in PROTOCOLS for m in MODELS] + [("user", m) for m in ABLATIONS]
    jobs += [
        {"protocol": protocol, "model": model, "lr": lr, "seed": seed, "epochs": epochs}
        for protocol, model in pairs
        for lr in rates
        for seed in seeds
    ]
    if options.quick and options.out == runs.RECORDED:
        parser.error("--quick needs --out: it must not replace the recorded runs")
    run_all = runs.Runner("movielens", run, {}, options)
    before = run_all.before()
    if before:
        timed = before.settings["throughput"]
    else:
        timed = [throughput(name, 10 if options.quick else 100) for name in MODELS]
    run_all.settings |= {
        "d": D,
        "batch": BATCH,
        "weight_decay": WEIGHT_DECAY,
        "learning_rates": rates,
        "epochs": epochs,
        "rows": {
            p: {k: len(v) for k, v in (d.split._asdict() | d.groups).items()}
            for p in PROTOCOLS
            for d in [data(p, torch.device("cpu"))]
        },
        "throughput": timed,
    }
    report(run_all(jobs))


if __name__ == "__main__":
    main()
