"""Chapter 07: which interaction does a ranking need? Nine models on MovieLens, two protocols.

Is a rating four stars or more? Every model is told the same six fields (user, movie, release, age,
hour, genres). Protocols: "user" holds out the last fifth of each user's ratings, "time" all
ratings after a date.

Without a gradient, or with nothing left to chance: the rate of the user, of the movie, the sum of
the two, logistic regression at its exact optimum, and the same with the evidence of similar
movies; a strength is chosen on the validation rows.

By gradient: each model is logistic regression plus a network on the embeddings. Swept in full, by
one seed: the learning rate, the decay of embeddings and network, the decay of the linear part,
dropout of the embeddings, their width, and the length of the schedule; and where the largest rate
is among a model's three best settings, a larger one. Networks of one width have the same number of
parameters, 160 d². A run is read at its best evaluation on the validation rows, of eleven an epoch.
One seed of thousands of settings is partly luck, so the three settings that are best there are run
again with three seeds, and of these the one whose mean validation loss is least is the model's.
Scored on the test rows are: all rows, the rows within users, the calibration, and the difference to
logistic regression on the same users, drawn 2,000 times. Ablations take the modules of DHEN away
one at a time, or one of its two layers, at equal parameters and one width; they are chosen and
scored in the same way, and compared with the whole DHEN of that width on the same users. By date
the sweep is of one width as well, and of the models that are quick.

The 96 models of a part of a sweep are trained at once (`stacks.py`), which wants a GPU; the final
runs are `linear_time.ranking.fit`. A run that was stopped resumes. `--quick` is a small grid, few
rows and one epoch: a minute or two on a CPU, and no evidence.
"""

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import runs
import torch
from stacks import Setting, fit_stack
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
from linear_time.layer import Mark
from linear_time.ranking import (
    Fields,
    Ranker,
    Split,
    fit,
    global_time_split,
    logistic_regression,
    movielens_fields,
    per_user_split,
    seen,
    similarity_evidence,
    smoothed_rate,
)
from linear_time.ranking_scores import bootstrap_users, calibration, scores, within_users
from linear_time.records import Record, packed, unpacked
from linear_time.training import Config, seed_everything

N_FIELDS = 6
MODULES = ("fm", "cross", "attention", "lce", "mlp")
NETWORKS = ("fm", "mlp", "dcn", "lce", "wukong", "wukong attentive", "dhen")
BY_DATE = ("logistic", "fm", "mlp", "dcn", "lce")
ABLATIONS = (*(f"dhen without {m}" for m in MODULES), "dhen depth 1")
CONTROL = "dhen without linear part"
MODELS = ("logistic", *NETWORKS, *ABLATIONS, CONTROL)
ABLATED_AT = 16  # width
PROTOCOLS = ("user", "time")
GROUPS = ("all", "warm", "cold-user", "cold-movie")

WIDTHS = (4, 8, 16, 32)
EPOCHS = (2, 6)
DROPOUTS = (0.0, 0.25, 0.5)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
MORE_RATES = (0.06, 0.12, 0.24, 0.48)  # one after the other, while the largest is among the best
DECAYS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
LINEAR_DECAYS = (0.03, 0.1, 0.3, 1.0)  # logistic regression's: those of DECAYS
SEEDS = (0, 1, 2)
CANDIDATES = 3  # settings of the sweep by user that are run with all seeds
BATCH, EVALUATIONS, DRAWS, WARMUP = 1024, 11, 2000, 20
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # of logistic regression's penalty
SHRINKS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
EVIDENCE = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)  # of similar movies


class Pairs(nn.Module):
    """The second-order term of a factorization machine."""

    def forward(self, x: Tensor) -> Tensor:
        return factorization_machine(x).sum(1, keepdim=True)


def ranker(fields: Fields, name: str, d: int, dropout: float = 0.0) -> Ranker:
    if name == "logistic":
        return Ranker(fields, linear=True)
    if name == "fm":
        return Ranker(fields, Pairs, d, linear=True, scale=1, dropout=dropout)
    build = functools.partial(sized, name, d)
    return Ranker(fields, build, d, linear=name != CONTROL, dropout=dropout)


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
    """To the reference, mean over the seeds; standard error and 95 % over users drawn again.

    The reference may have seeds as well, (seeds, rows).
    """
    rows = d.split.test.cpu()
    reference = reference.double().reshape(-1, len(rows))
    every = torch.cat([reference, logits.cpu().double()])
    drawn = bootstrap_users(every, d.label.cpu()[rows], d.user[rows], DRAWS)
    found = {}
    for key, columns in drawn._asdict().items():
        change = columns[:, len(reference) :].mean(1) - columns[:, : len(reference)].mean(1)
        low, high = change.quantile(torch.tensor([0.025, 0.975], dtype=change.dtype)).tolist()
        found[key] = {
            "mean": round(float(change.mean()), 5),
            "error": round(float(change.std()), 5),
            "interval": [round(low, 5), round(high, 5)],
        }
    return found


def run(job: dict) -> dict:
    runs.without_checks()
    if job["stage"] == "baseline":
        return baseline(job)
    if job["stage"] == "sweep":
        return sweep(job)
    return final(job)


def size(model: Ranker) -> dict[str, int]:
    behind = runs.count(model.network) if model.network else 0
    return {"parameters": runs.count(model), "network_parameters": behind}


def sweep(job: dict) -> dict:
    """The least validation loss of each setting of the grid."""
    d = data(job["protocol"], runs.device(), job["quick"])
    build = functools.partial(ranker, d.fields, job["model"], job["width"])

    def fitted(settings: Sequence[Setting]) -> list[float]:
        try:
            return fit_stack(
                build, settings, d.fields, d.label, d.split, job["epochs"], BATCH, EVALUATIONS
            ).validation.tolist()
        except torch.OutOfMemoryError:  # others share the GPU: two halves, one after the other
            if len(settings) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(settings) // 2
        return fitted(settings[:half]) + fitted(settings[half:])

    losses = fitted(grid(job))
    return {
        **size(build()),
        "validation": [round(v, 5) if math.isfinite(v) else None for v in losses],
    }


def final(job: dict) -> dict:
    """One setting with all seeds, by the library's ``fit``."""
    d = data(job["protocol"], runs.device(), job["quick"])
    an_epoch = math.ceil(len(d.split.train) / BATCH)
    steps, logits, losses, best_steps = job["epochs"] * an_epoch, [], [], []
    for seed in job["seeds"]:
        seed_everything(seed)
        model = ranker(d.fields, job["model"], job["width"], job["dropout"]).to(d.label.device)
        config = Config(
            steps=steps,
            lr=job["lr"],
            weight_decay=decayed(model, job["weight_decay"], job["linear_decay"]),
            warmup=min(WARMUP, steps),
            seed=seed,
            eval_every=max(1, an_epoch // EVALUATIONS),
            progress=False,
        )
        history = fit(model, d.fields, d.label, d.split, config, BATCH)
        losses.append(round(float(history.metric.min()), 5))
        best_steps.append(int(history.eval_step[history.metric.argmin()]))
        with torch.no_grad():
            logits.append(model.eval().logits(d.fields, d.split.test).cpu())
    reference = exact(job["protocol"], job["strength"], job["quick"])[d.split.test.cpu()]
    found = {
        **size(model),
        "validation": losses,
        "best_step": best_steps,
        "test": test_scores(torch.stack(logits), d),
        "to_logistic_regression": difference(torch.stack(logits), reference, d),
    }
    if job["stage"] == "final" and job["protocol"] == "user":
        found["logit"] = packed(logits[0])
    if job["stage"] == "ablation":
        found["logits"] = [packed(one) for one in logits]
    return found


def decayed(model: Ranker, weight_decay: float, linear_decay: float) -> float:
    """The decay to train with; the linear part is marked with its share of it."""
    if model.network is None:
        return linear_decay
    for module in model.linear.modules() if model.linear else ():
        if isinstance(module, (nn.Embedding, nn.Linear)):
            share = Mark(linear_decay / weight_decay, 1.0)  # type: ignore[arg-type]
            module.marks = {"weight": share}  # type: ignore[assignment]
    return weight_decay


def grid(job: dict) -> list[Setting]:
    """One seed; logistic regression has no embeddings to decay."""
    decays: Sequence[float] = DECAYS
    linear: Sequence[float] = LINEAR_DECAYS
    if job["model"] == "logistic":
        decays, linear = (0.0,), DECAYS
    if job["model"] == CONTROL:
        linear = (0.0,)
    if job["quick"]:
        decays, linear = decays[:1], linear[1:2] or linear
    return [
        Setting(lr, decay, own, job["dropout"], 0)
        for lr, decay, own in itertools.product(job["rates"], decays, linear)
    ]


@functools.lru_cache
def exact(protocol: str, strength: float, quick: bool) -> Tensor:
    """Logistic regression's logits of all rows."""
    d = data(protocol, torch.device("cpu"), quick)
    model = logistic_regression(d.fields, d.label, d.split.train, strength)
    fields = d.fields._replace(genres=d.fields.genres.double())
    with torch.no_grad():
        return model.logits(fields, torch.arange(len(d.label)))


def baseline(job: dict) -> dict:
    d = data(job["protocol"], torch.device("cpu"), job["quick"])
    label, split = d.label, d.split

    def log_loss(logit: Tensor) -> float:
        return scores(logit[split.validation], label[split.validation]).log_loss

    def rate(value: Tensor) -> Tensor:
        return torch.logit(smoothed_rate(value, label, split.train))

    strengths = STRENGTHS[2:4] if job["quick"] else STRENGTHS
    fits = [(log_loss(exact(job["protocol"], s, job["quick"])), s) for s in strengths]
    chosen = {"strength": min(fits)[1]}
    reference = exact(job["protocol"], chosen["strength"], job["quick"])
    residual = label.double() - torch.sigmoid(reference)
    similar = []
    for shrink in SHRINKS:
        evidence = similarity_evidence(d.user, d.movie, residual, split.train, shrink)
        similar += [(log_loss(reference + w * evidence), shrink, w, evidence) for w in EVIDENCE]
    _, chosen["shrink"], chosen["weight"], evidence = min(similar, key=lambda one: one[0])
    prior = torch.logit(label[split.train].double().mean())
    found = {
        "rate of the user": rate(d.user),
        "rate of the movie": rate(d.movie),
        "sum of both rates": rate(d.user) + rate(d.movie) - prior,
        "logistic regression": reference,
        "logistic and similar movies": reference + chosen["weight"] * evidence,
    }
    rows = {}
    for name, logit in found.items():
        test = logit[split.test]
        row = {"validation": [round(log_loss(logit), 5)], "test": test_scores(test[None], d)}
        if name != "logistic regression":
            row["to_logistic_regression"] = difference(test[None], reference[split.test], d)
        if name.startswith("logistic") and job["protocol"] == "user":
            row["logit"] = packed(test)
        rows[name] = row
    return {**chosen, "baselines": rows}


def sweeps(model: str, protocol: str, quick: bool, rates: Sequence[float] = RATES) -> list[dict]:
    """The jobs of a model's sweep over these rates: each is a stack."""
    every = model in NETWORKS and protocol == "user"
    widths: Sequence[int] = WIDTHS if every else (ABLATED_AT,)
    dropouts: Sequence[float] = DROPOUTS
    if model == "logistic":
        widths, dropouts = (1,), (0.0,)
    if quick:
        widths, dropouts, rates = widths[-2:], dropouts[-1:], rates[2:3]
    return [
        {"stage": "sweep", "protocol": protocol, "model": model, "width": width}
        | {"epochs": epochs, "dropout": dropout, "quick": quick, "rates": tuple(rates)}
        for width in widths
        for epochs in ((1,) if quick else EPOCHS)
        for dropout in dropouts
    ]


def candidates(
    record: Record, model: str, protocol: str, number: int, quick: bool, width: int | None = None
) -> list[dict]:
    """The settings of least validation loss of a model's sweeps (of a width), the least first."""
    found = []
    for row in record:
        if row["stage"] != "sweep" or (row["model"], row["protocol"]) != (model, protocol):
            continue
        if row["quick"] == quick and width in (None, row["width"]):
            for setting, loss in zip(grid(dict(row)), row["validation"], strict=True):
                if loss is not None:
                    found.append((loss, setting, row))
    found.sort(key=lambda one: one[0])
    keys = ("protocol", "model", "width", "epochs", "dropout", "quick")
    return [
        {
            "stage": "final",
            **{key: row[key] for key in keys},
            "lr": setting.lr,
            "weight_decay": setting.weight_decay,
            "linear_decay": setting.linear_decay,
        }
        for _, setting, row in found[:number]
    ]


def longer(record: Record, models: Sequence[tuple[str, str]], rate: float) -> list[dict]:
    """The jobs of one more rate, for the models that have the largest so far among their best."""
    largest = max((*RATES, *(more for more in MORE_RATES if more < rate)))
    jobs = []
    for model, protocol in models:
        best = candidates(record, model, protocol, CANDIDATES, quick=False)
        if largest in [one["lr"] for one in best]:
            jobs += sweeps(model, protocol, False, (rate,))
    # The longest first, so that no process is left alone with one.
    return sorted(jobs, key=lambda job: job["width"] * job["epochs"], reverse=True)


def finals(record: Record, models: Sequence[tuple[str, str]], seeds: Sequence[int], quick: bool):
    """What the sweeps put first, with all seeds; ablations beside the whole DHEN of their width."""
    strength = {row["protocol"]: row["strength"] for row in record if row["stage"] == "baseline"}
    chosen = []
    for model, protocol in models:
        if protocol == "time":
            chosen += candidates(record, model, protocol, 1, quick)
        elif model not in (*ABLATIONS, CONTROL):
            chosen += candidates(record, model, protocol, CANDIDATES, quick)
        if protocol == "user" and model in ("dhen", *ABLATIONS, CONTROL):
            best = candidates(record, model, protocol, CANDIDATES, quick, ABLATED_AT)
            chosen += [{**job, "stage": "ablation"} for job in best]
    chosen.sort(key=lambda job: job["width"], reverse=True)  # the longest first
    return [{**job, "strength": strength[job["protocol"]], "seeds": tuple(seeds)} for job in chosen]


def standing(record: Record, models: Sequence[tuple[str, str]], jobs: Sequence[dict]) -> Record:
    """Without the final runs of settings that a longer sweep of these models has put behind."""
    rows = [
        row
        for row in record
        if row["stage"] not in ("final", "ablation")
        or (row["model"], row["protocol"]) not in models
        or any(job.items() <= row.items() for job in jobs)
    ]
    return replace(record, rows=tuple(rows))


def best_of(record: Record, stage: str) -> dict[str, dict]:
    """By user, of each model the run of least mean validation loss."""
    best: dict[str, dict] = {}
    for row in map(dict, record):
        if row["stage"] == stage and row["protocol"] == "user":
            least = best.setdefault(row["model"], row)
            if statistics.mean(row["validation"]) < statistics.mean(least["validation"]):
                best[row["model"]] = row
    return best


def beside_the_whole(record: Record, quick: bool) -> Record:
    """The best run of each ablation gets its difference to DHEN's, on the same users."""
    best = best_of(record, "ablation")
    if "logits" not in best.get("dhen", {}):
        return record

    def seeds(row: dict) -> Tensor:
        return torch.stack([unpacked(one) for one in row["logits"]])

    d, whole, rows = data("user", torch.device("cpu"), quick), seeds(best["dhen"]), []
    for row in map(dict, record):
        variant = row["stage"] == "ablation" and row["model"] != "dhen"
        if variant and "logits" in row and row == best[row["model"]]:
            row["to_dhen"] = difference(seeds(row), whole, d)
        rows.append(row)
    return replace(record, rows=tuple(rows))


def without_logits(record: Record) -> list[dict]:
    """The rows; of candidates, only the logits of a model's choice are kept, of ablations none."""
    best = best_of(record, "final")
    rows = []
    for row in map(dict, record):
        row.pop("logits", None)
        if "logit" in row and row["stage"] == "final" and row != best[row["model"]]:
            del row["logit"]
        rows.append(row)
    return rows


def throughput(name: str, d: int, device: torch.device, steps: int) -> dict:
    """A training step (forward, backward, AdamW), with our searches of values and without."""
    given = data("user", device)
    seed_everything(0)
    model = ranker(given.fields, name, d).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    at = given.split.train[:BATCH]
    codes, genres, label = given.fields.codes[at], given.fields.genres[at], given.label[at].float()
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(steps + 5):  # the first few warm up
        for searched, own in times.items():  # in turns: both see the same noise
            begin = time.perf_counter()
            with checks(values=searched):
                logit = model(codes, genres)
            nn.functional.binary_cross_entropy_with_logits(logit, label).backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            own.append(time.perf_counter() - begin)
    without, with_checks = (round(1e3 * statistics.median(own[5:]), 3) for own in times.values())
    behind = runs.count(model.network) if model.network else 0
    return {
        "throughput": name,
        "device": device.type,
        "ms": without,
        "ms_with_checks": with_checks,
        "parameters": runs.count(model),
        "network_parameters": behind,
    }


def report(record: Record) -> None:
    """Mean over the seeds, and the difference to logistic regression with its error."""
    named = []
    for row in record:
        if row["stage"] == "baseline":
            named += [(name, {**row, **own}) for name, own in row["baselines"].items()]
        elif row["stage"] in ("final", "ablation"):
            named.append((row["model"], row))
    keys = ("width", "epochs", "dropout", "lr", "weight_decay", "linear_decay")
    for name, row in named:
        auc, users = row["test"]["all"]["auc"], row["test"]["users"]
        cells = [statistics.mean(one) for one in (auc, users["auc"], users["ndcg"])]
        text = "  ".join(f"{cell:.4f}" for cell in cells)
        if "to_logistic_regression" in row:
            change = row["to_logistic_regression"]
            for key in ("auc", "within_auc"):
                text += f"  {change[key]['mean']:+.4f} ± {change[key]['error']:.4f}"
        chosen = ", ".join(f"{key} {row[key]}" for key in keys if key in row)
        print(f"{row['protocol']:5}{row['stage']:9}{name:28}{text}  {chosen}")


def main() -> None:
    parser = runs.parser(__doc__, SEEDS, workers=8 if torch.cuda.is_available() else 2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", nargs="+", default=MODELS, help="several GPUs can share")
    parser.add_argument("--protocols", nargs="+", default=PROTOCOLS)
    options = parser.parse_args()
    quick = options.quick
    if quick and options.out == runs.RECORDED:
        parser.error("--quick needs --out: it must not replace the recorded runs")
    run_all = runs.Runner("movielens", run, {}, options)
    before = run_all.before()
    if before and "throughput" in before.settings:
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
        "more_rates": MORE_RATES,
        "weight_decays": DECAYS,
        "linear_decays": LINEAR_DECAYS,
        "dropouts": DROPOUTS,
        "widths": WIDTHS,
        "epochs": EPOCHS,
        "candidates": CANDIDATES,
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
        {"stage": "baseline", "protocol": protocol, "quick": quick} for protocol in PROTOCOLS
    ]
    models = [
        (name, protocol)
        for protocol, names in (("user", MODELS), ("time", BY_DATE))
        for name in names
        if name in options.models and protocol in options.protocols
    ]
    for model, protocol in models:
        jobs += sweeps(model, protocol, quick)
    swept = run_all(jobs)
    report(swept)
    for rate in () if quick else MORE_RATES:
        more = longer(swept, models, rate)
        swept = replace(swept, rows=(*swept, *run_all(more)))
    last = finals(swept, models, options.seeds, quick)
    report(run_all(last))
    whole = run_all.before()
    assert whole is not None
    if set(options.models) == set(MODELS):  # else that is left to a run of all
        whole = beside_the_whole(standing(whole, models, last), quick)
        replace(whole, rows=tuple(without_logits(whole))).write(options.out)


if __name__ == "__main__":
    main()
