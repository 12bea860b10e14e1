"""Chapter 07: which interaction does a ranking need? Nine models on MovieLens, two protocols.

Is a rating four stars or more? Every model is told the same six fields (user, movie, release, age,
hour, genres). Protocols: "user" holds out the last fifth of each user's ratings, "time" all
ratings after a date.

Without a gradient, or with nothing left to chance: the rate of the user, of the movie, the sum of
the two, logistic regression at its exact optimum, and the same with the evidence of similar
movies; a strength is chosen on the validation rows.

By gradient: each model is logistic regression plus a network on the embeddings. Swept are the
learning rate, the decay of embeddings and network, the decay of the linear part, dropout of the
embeddings, their width, and the length of the schedule; one seed, the full grid. Networks of one
width have the same number of parameters, 160 d². A run is read at its best evaluation on the
validation rows, of eleven an epoch. The setting that is best there is run again with five seeds,
which are scored on the test rows: over all rows, within users, by their calibration, and by the
difference to logistic regression on the same users, drawn 2,000 times. Ablations take the modules
of DHEN away one at a time, or change its depth, at equal parameters, and are swept as all are.

Models of a sweep are trained at once (`stacks.py`). `--quick` is a small grid, few rows and one
epoch: a minute or two on a CPU, and no evidence.
"""

import base64
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import runs
import torch
from stacks import Fitted, Setting, fit_stack
from torch import Tensor, nn

from linear_time import checks
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
    global_time_split,
    logistic_regression,
    movielens_fields,
    per_user_split,
    seen,
    similarity_evidence,
    smoothed_rate,
)
from linear_time.ranking_scores import bootstrap_users, calibration, scores, within_users
from linear_time.records import Record
from linear_time.training import seed_everything

N_FIELDS = 6
MODULES = ("fm", "cross", "attention", "lce", "mlp")
NETWORKS = ("fm", "mlp", "dcn", "lce", "wukong", "wukong attentive", "dhen")
ABLATIONS = (*(f"dhen without {m}" for m in MODULES), *(f"dhen depth {n}" for n in (1, 3)))
CONTROL = "dhen without linear part"
ABLATED_AT = 16  # width
BASELINES = ("rate of the user", "rate of the movie", "sum of both rates")
BASELINES += ("logistic regression", "logistic and similar movies")
PROTOCOLS = ("user", "time")
GROUPS = ("all", "warm", "cold-user", "cold-movie")

WIDTHS = (4, 8, 16, 32)
EPOCHS = (2, 6)
DROPOUTS = (0.0, 0.25, 0.5)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
DECAYS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
LINEAR_DECAYS = (0.03, 0.1, 0.3, 1.0)
SEEDS = (0, 1, 2, 3, 4)
BATCH, EVALUATIONS, DRAWS = 1024, 11, 2000
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # of logistic regression's penalty
SHRINKS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
EVIDENCE = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)  # weights of similar movies


class Pairs(nn.Module):
    """The second-order term of a factorization machine."""

    def forward(self, x: Tensor) -> Tensor:
        return factorization_machine(x).sum(1, keepdim=True)


def ranker(fields: Fields, name: str, d: int) -> Ranker:
    if name == "logistic":
        return Ranker(fields, linear=True)
    if name == "fm":
        return Ranker(fields, Pairs, d, linear=True, scale=1)
    return Ranker(fields, functools.partial(sized, name, d), d, linear=name != CONTROL)


def sized(name: str, d: int) -> nn.Module:
    """(batch, 6, d) → (batch, 1), its hidden width such that it has about 160 d² parameters."""
    # Counted without memory for the weights: the wanted width is found by halving.
    low, high = 1, 8 * 160 * d
    with torch.device("meta"):
        while low < high:
            middle = (low + high + 1) // 2
            if runs.count(network(name, d, middle)) <= 160 * d**2:
                low = middle
            else:
                high = middle - 1
    return network(name, d, low)


def network(name: str, d: int, hidden: int) -> nn.Module:
    flat = N_FIELDS * d
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), mlp(flat, (hidden, hidden), 1))
    if name == "dcn":
        cross = CrossNetwork(N_FIELDS, N_FIELDS, d, depth=3)
        return nn.Sequential(cross, nn.Flatten(), mlp(flat, (hidden,), 1))
    if name == "lce":
        compress = LinearCompression(N_FIELDS, 4)
        return nn.Sequential(compress, nn.Flatten(), mlp(4 * d, (hidden, hidden), 1))
    if name.startswith("wukong"):
        attentive = (16,) if name == "wukong attentive" else None
        stack: DHEN = Wukong(N_FIELDS, d, 3, 3, 3, 4, (hidden,), attentive=attentive)
        return nn.Sequential(stack, nn.Flatten(), nn.Linear(flat, 1))
    words = name.split()
    without = words[2] if "without" in words else None
    depth = int(words[2]) if "depth" in words else 2
    layer = functools.partial(dhen_layer, without, d, hidden)
    return nn.Sequential(DHEN(layer, N_FIELDS, d, depth), nn.Flatten(), nn.Linear(flat, 1))


def dhen_layer(without: str | None, d: int, hidden: int, n: int) -> DHENLayer:
    """The five modules side by side but one; each gives six tokens, and they are summed."""
    made: dict[str, Callable[[], Any]] = {
        "fm": lambda: FactorizationMachine(n, N_FIELDS, d, rank=4, hidden=(hidden,)),
        "cross": lambda: CrossNetwork(n, N_FIELDS, d),
        "attention": lambda: SelfAttention(n, N_FIELDS, d, n_heads=2),
        "lce": lambda: LinearCompression(n, N_FIELDS),
        "mlp": lambda: MLP(n, N_FIELDS, d, (hidden,)),
    }
    return DHENLayer([made[m]() for m in MODULES if m != without], d, "weighted")


class Data(NamedTuple):
    fields: Fields
    label: Tensor
    split: Split
    groups: dict[str, Tensor]  # places in the test part
    user: Tensor
    movie: Tensor


@functools.lru_cache
def data(protocol: str, device: torch.device, quick: bool = False) -> Data:
    """All rows on the device: they are few."""
    ml = movielens()
    if protocol == "user":
        split = per_user_split(ml.user, ml.timestamp)
    else:
        split = global_time_split(ml.timestamp)
    if quick:
        split = Split(*(rows[:: len(rows) // 1500] for rows in split))
    fields = movielens_fields(ml, split.train)
    fields = fields._replace(codes=fields.codes.to(device), genres=fields.genres.to(device))
    user, movie = (seen(value, split.train)[split.test] for value in (ml.user, ml.movie))
    kept = {"all": user | ~user, "warm": user & movie, "cold-user": ~user}
    kept["cold-movie"] = user & ~movie
    return Data(
        fields,
        ml.liked.to(device),
        Split(*(rows.to(device) for rows in split)),
        {name: kept[name].nonzero()[:, 0] for name in GROUPS},
        ml.user,
        ml.movie,
    )


def test_scores(logits: Tensor, d: Data) -> dict[str, Any]:
    """Of logits (seeds, test rows), lists with one entry a seed: by group, within users, the line.

    Groups of one kind of row, or of less than a hundred rows, are left out.
    """
    rows = d.split.test.cpu()
    label, user = d.label.cpu()[rows], d.user[rows]
    found: dict[str, Any] = {}
    for name, at in d.groups.items():
        if len(at) >= 100 and 0 < int(label[at].sum()) < len(at):
            each = [scores(logit[at], label[at])._asdict() for logit in logits]
            keys = ("auc", "log_loss", "normalised_entropy")
            found[name] = {key: [round(one[key], 5) for one in each] for key in keys}
    within = [within_users(logit, label, user) for logit in logits]
    found["users"] = {
        "auc": [round(float(one.auc.mean()), 5) for one in within],
        "ndcg": [round(float(one.ndcg.mean()), 5) for one in within],
    }
    # The user's rate alone gives every user one logit; the line still exists.
    lines = [calibration(logit, label) for logit in logits]
    found["line"] = [[round(x, 4) for x in line] for line in lines]
    return found


def difference(logits: Tensor, reference: Tensor, d: Data) -> dict[str, Any]:
    """To the reference, mean over the seeds; standard error and 95 % over users drawn again."""
    rows = d.split.test.cpu()
    every = torch.cat([reference[None], logits.cpu().double()])
    drawn = bootstrap_users(every, d.label.cpu()[rows], d.user[rows], DRAWS)
    found = {}
    for key, columns in drawn._asdict().items():
        change = columns[:, 1:].mean(1) - columns[:, 0]
        low, high = change.quantile(torch.tensor([0.025, 0.975], dtype=change.dtype)).tolist()
        found[key] = {
            "mean": round(float(change.mean()), 5),
            "error": round(float(change.std()), 5),
            "interval": [round(low, 5), round(high, 5)],
        }
    return found


def packed(logit: Tensor) -> str:
    """Half precision in base64: `linear_time.records.unpacked` reads it."""
    half = logit.cpu().to(torch.float16).numpy().astype("<f2")
    return base64.b64encode(half.tobytes()).decode("ascii")


def run(job: dict) -> dict:
    runs.without_checks()
    if job["stage"] == "baseline":
        return baseline(job)
    if job["stage"] == "sweep":
        settings = grid(job["model"], job["dropout"], job["quick"])
        fitted, size = trained(job, settings)
        values = [round(v, 5) if v < 99 else None for v in fitted.validation.tolist()]
        return {**size, "validation": values, "best_step": fitted.best_step.int().tolist()}
    settings = [
        Setting(job["lr"], job["weight_decay"], job["linear_decay"], job["dropout"], seed)
        for seed in job["seeds"]
    ]
    fitted, size = trained(job, settings)
    d = data(job["protocol"], runs.device(), job["quick"])
    reference = reference_logit(job["protocol"], job["quick"])
    found = {
        **size,
        "validation": [round(v, 5) for v in fitted.validation.tolist()],
        "best_step": fitted.best_step.int().tolist(),
        "test": test_scores(fitted.test.cpu(), d),
        "to_logistic_regression": difference(fitted.test, reference, d),
    }
    if job["protocol"] == "user" and job["stage"] == "final":
        found["logit"] = packed(fitted.test[0])
    return found


def trained(job: dict, settings: Sequence[Setting]) -> tuple[Fitted, dict[str, int]]:
    d = data(job["protocol"], runs.device(), job["quick"])
    build = functools.partial(ranker, d.fields, job["model"], job["width"])
    model = build()

    def fit(settings: Sequence[Setting]) -> Fitted:
        try:
            return fit_stack(
                build, settings, d.fields, d.label, d.split, job["epochs"], BATCH, EVALUATIONS
            )
        except torch.OutOfMemoryError:  # others share the GPU: two halves, one after the other
            if len(settings) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(settings) // 2
        parts = fit(settings[:half]), fit(settings[half:])
        return Fitted(*(torch.cat(pair) for pair in zip(*parts, strict=True)))

    fitted = fit(settings)
    behind = runs.count(model.network) if model.network else 0
    return fitted, {"parameters": runs.count(model), "network_parameters": behind}


def grid(model: str, dropout: float, quick: bool) -> list[Setting]:
    """One seed; logistic regression has no embeddings to decay or to drop."""
    decays: Sequence[float] = DECAYS
    linear: Sequence[float] = LINEAR_DECAYS
    if model == "logistic":
        decays, linear = (0.0,), DECAYS
    if model == CONTROL:
        linear = (0.0,)
    if quick:
        decays, linear = decays[:1], linear[1:2] or linear
    every = itertools.product(RATES[2:3] if quick else RATES, decays, linear)
    return [Setting(lr, decay, own, dropout, 0) for lr, decay, own in every]


@functools.lru_cache
def exact(protocol: str, quick: bool) -> tuple[float, Tensor]:
    """Logistic regression's strength that is best in validation, and its logits of all rows."""
    d = data(protocol, torch.device("cpu"), quick)
    fields = d.fields._replace(genres=d.fields.genres.double())
    rows, found = torch.arange(len(d.label)), []
    for strength in STRENGTHS[2:4] if quick else STRENGTHS:
        model = logistic_regression(d.fields, d.label, d.split.train, strength)
        with torch.no_grad():
            logit = model.logits(fields, rows)
        at = d.split.validation
        found.append((scores(logit[at], d.label[at]).log_loss, strength, logit))
    _, strength, logit = min(found, key=lambda one: one[0])
    return strength, logit


def reference_logit(protocol: str, quick: bool) -> Tensor:
    """Logistic regression's, of the test rows."""
    test = data(protocol, torch.device("cpu"), quick).split.test
    return exact(protocol, quick)[1][test]


def baseline(job: dict) -> dict:
    d = data(job["protocol"], torch.device("cpu"), job["quick"])
    label, split, chosen = d.label, d.split, {}

    def log_loss(logit: Tensor) -> float:
        return scores(logit[split.validation], label[split.validation]).log_loss

    def rate(value: Tensor) -> Tensor:
        return torch.logit(smoothed_rate(value, label, split.train))

    if job["model"] == "rate of the user":
        logit = rate(d.user)
    elif job["model"] == "rate of the movie":
        logit = rate(d.movie)
    elif job["model"] == "sum of both rates":
        logit = rate(d.user) + rate(d.movie) - torch.logit(label[split.train].double().mean())
    else:
        chosen["strength"], logit = exact(job["protocol"], job["quick"])
    if job["model"] == "logistic and similar movies":
        residual = label.double() - torch.sigmoid(logit)
        evidence = {
            shrink: similarity_evidence(d.user, d.movie, residual, split.train, shrink)
            for shrink in SHRINKS
        }
        _, shrink, weight = min(
            (log_loss(logit + weight * evidence[shrink]), shrink, weight)
            for shrink in SHRINKS
            for weight in EVIDENCE
        )
        chosen |= {"shrink": shrink, "weight": weight}
        logit = logit + weight * evidence[shrink]
    test = logit[split.test]
    found = {**chosen, "validation": [round(log_loss(logit), 5)]}
    found["test"] = test_scores(test[None], d)
    if job["model"] != "logistic regression":
        reference = reference_logit(job["protocol"], job["quick"])
        found["to_logistic_regression"] = difference(test[None], reference, d)
    if job["protocol"] == "user":
        found["logit"] = packed(test)
    return found


def sweeps(model: str, protocol: str, quick: bool) -> list[dict]:
    """The jobs of a model's sweep: each is a stack."""
    every = model in NETWORKS and protocol == "user"
    widths: Sequence[int] = WIDTHS if every else (ABLATED_AT,)
    dropouts: Sequence[float] = DROPOUTS
    if model == "logistic":
        widths, dropouts = (1,), (0.0,)
    if quick:
        widths, dropouts = widths[-2:], dropouts[-1:]
    return [
        {"stage": "sweep", "protocol": protocol, "model": model, "width": width}
        | {"epochs": epochs, "dropout": dropout, "quick": quick}
        for width in widths
        for epochs in ((1,) if quick else EPOCHS)
        for dropout in dropouts
    ]


def best(record: Record, jobs: Sequence[dict]) -> dict:
    """The setting of least validation loss, of these jobs' sweeps."""
    found = []
    for row in record:
        if any(job.items() <= row.items() for job in jobs):
            settings = grid(row["model"], row["dropout"], row["quick"])
            for setting, loss in zip(settings, row["validation"], strict=True):
                if loss is not None:
                    found.append((loss, setting, row))
    _, setting, row = min(found, key=lambda one: one[0])
    return {
        "stage": "final",
        **{key: row[key] for key in ("protocol", "model", "width", "epochs", "dropout", "quick")},
        "lr": setting.lr,
        "weight_decay": setting.weight_decay,
        "linear_decay": setting.linear_decay,
    }


def finals(record: Record, seeds: Sequence[int], quick: bool) -> list[dict]:
    """What the sweeps chose, with all seeds; ablations beside DHEN at their width."""
    chosen = []
    for protocol in PROTOCOLS:
        for model in ("logistic", *NETWORKS):
            chosen.append(best(record, sweeps(model, protocol, quick)))
    for model in ("dhen", *ABLATIONS, CONTROL):
        jobs = [job for job in sweeps(model, "user", quick) if job["width"] == ABLATED_AT]
        chosen.append({**best(record, jobs), "stage": "ablation"})
    return [{**job, "seeds": tuple(seeds)} for job in chosen]


def throughput(name: str, d: int, device: torch.device, steps: int) -> dict:
    """A training step (forward, backward, AdamW), with our searches of values and without."""
    given = data("user", device)
    seed_everything(0)
    model = ranker(given.fields, name, d).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    at = given.split.train[:BATCH]
    codes, genres, label = given.fields.codes[at], given.fields.genres[at], given.label[at].float()
    found = {}
    for key, searched in (("ms", False), ("ms_with_checks", True)):
        times = []
        for _ in range(steps + 5):  # the first few warm up
            begin = time.perf_counter()
            with checks(values=searched):
                logit = model(codes, genres)
            nn.functional.binary_cross_entropy_with_logits(logit, label).backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        found[key] = round(1e3 * statistics.median(times[5:]), 3)
    behind = runs.count(model.network) if model.network else 0
    return {
        "throughput": name,
        "device": device.type,
        **found,
        "rows_a_second": round(1e3 * BATCH / found["ms"]),
        "parameters": runs.count(model),
        "network_parameters": behind,
    }


def report(record: Record) -> None:
    """Mean over the seeds, and the difference to logistic regression with its error."""
    for row in record:
        if row["stage"] == "sweep":
            continue
        auc, users = row["test"]["all"]["auc"], row["test"]["users"]
        cells = [statistics.mean(one) for one in (auc, users["auc"], users["ndcg"])]
        text = "  ".join(f"{cell:.4f}" for cell in cells)
        if "to_logistic_regression" in row:
            change = row["to_logistic_regression"]
            for key in ("auc", "within_auc"):
                text += f"  {change[key]['mean']:+.4f} ± {change[key]['error']:.4f}"
        keys = ("width", "epochs", "dropout", "lr", "weight_decay", "linear_decay", "strength")
        chosen = ", ".join(f"{key} {row[key]}" for key in keys if key in row)
        print(f"{row['protocol']:5}{row['model']:28}{text}  {chosen}")


def main() -> None:
    parser = runs.parser(__doc__, SEEDS, workers=8 if torch.cuda.is_available() else 2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    quick = options.quick
    if quick and options.out == runs.RECORDED:
        parser.error("--quick needs --out: it must not replace the recorded runs")
    run_all = runs.Runner("movielens", run, {}, options)
    before = run_all.before()
    if before:
        timed = before.settings["throughput"]
    else:
        devices = {torch.device("cpu"), runs.device()}
        torch.set_num_threads(1)
        timed = [
            throughput(name, ABLATED_AT, device, 5 if quick else 40)
            for device in sorted(devices, key=str)
            for name in ("logistic", *NETWORKS)
        ]
    run_all.settings |= {
        "batch": BATCH,
        "evaluations_an_epoch": EVALUATIONS,
        "draws": DRAWS,
        "rates": RATES,
        "weight_decays": DECAYS,
        "linear_decays": LINEAR_DECAYS,
        "dropouts": DROPOUTS,
        "widths": WIDTHS,
        "epochs": EPOCHS,
        "strengths": STRENGTHS,
        "shrinks": SHRINKS,
        "evidence": EVIDENCE,
        "rows": {
            p: {k: len(v) for k, v in (d.split._asdict() | d.groups).items()}
            for p in PROTOCOLS
            for d in [data(p, torch.device("cpu"))]
        },
        "throughput": timed,
    }
    jobs: list[dict] = [
        {"stage": "baseline", "protocol": protocol, "model": model, "quick": quick}
        for protocol in PROTOCOLS
        for model in BASELINES
    ]
    for protocol in PROTOCOLS:
        for model in ("logistic", *NETWORKS):
            jobs += sweeps(model, protocol, quick)
        if protocol == "user":
            for model in (*ABLATIONS, CONTROL):
                jobs += sweeps(model, protocol, quick)
    swept = run_all(jobs)
    report(run_all([job for job in jobs if job["stage"] == "baseline"]))
    report(run_all(finals(swept, options.seeds, quick)))


if __name__ == "__main__":
    main()
