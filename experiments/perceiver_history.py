"""Chapter 08: a history of 64 rated movies, compressed to m tokens and asked by a candidate.

A token is the embedding of a movie and the rating that it got, less the mean of the history. What a
candidate asks of the whole history is target attention, a softmax over its cosines with the 64
movies; its answer is the mean of the tokens with these weights. Each compressor makes m tokens of
the 64, the same small attention layer reads them, and both are trained together to give the answer
("answers") or the rating of the candidate ("ratings").

An answer weighs by cosines, so a layer that compares lengths as well is at a loss. The one that
reads is given candidate and tokens as they are ("plain"), or behind a LayerNorm, a token beside
itself ("normed"): both for every compressor, and for all 64 tokens. The latents make their tokens
by keys behind a norm always.

Embeddings and training use 450 users, the rate and the step are chosen on 50, and 171 are the test:
no user is in two parts. A history is 64 ratings in a row, its candidates the eight movies after it;
users with fewer than 72 ratings have none.
"""

import functools

import runs
import torch
from torch import Tensor, nn

from linear_time.attention import MultiHeadAttention
from linear_time.compression import MeanPooling, matrix
from linear_time.datasets import movielens
from linear_time.training import seed_everything, train

LENGTH, CANDIDATES, D_MOVIE = 64, 8, 16
SHARPNESS = 8  # of the softmax over cosines: about ten movies weigh
WIDTH, HEADS, BATCH = 32, 2, 128
COMPRESSORS = ("means", "lce", "sorted lce", "latents")
SIZES = (1, 4, 16)
READERS = ("plain", "normed")
RATES, SEEDS, STEPS = (3e-3, 1e-2, 3e-2, 6e-2, 0.12), (0, 1, 2), 600
USERS = {"train": 450, "validation": 500, "test": 671}  # up to which of a random order


@functools.lru_cache
def data() -> dict[str, dict[str, Tensor]]:
    """For each part: tokens of histories, candidates, answers, ratings, popularity, users."""
    rows = movielens()
    user, movie, rating = rows.user, rows.movie, rows.rating.float()
    n_users, n_movies = int(user.max()) + 1, int(movie.max()) + 1
    in_time = torch.argsort(rows.timestamp, stable=True)
    lists = [in_time[user[in_time] == u] for u in range(n_users)]
    mean = torch.stack([rating[own].mean() for own in lists])
    shuffled = torch.randperm(n_users, generator=torch.Generator().manual_seed(0))
    parts = dict(zip(USERS, torch.tensor_split(shuffled, list(USERS.values())[:-1]), strict=True))
    seen = torch.isin(user, parts["train"])
    table = torch.zeros(n_users, n_movies)
    table[user[seen], movie[seen]] = (rating - mean[user])[seen]
    likes = table.sum(0) / ((table != 0).sum(0) + 5)  # shrunk
    _, values, vectors = torch.linalg.svd(table[parts["train"]], full_matrices=False)
    movies = (vectors[:D_MOVIE] * values[:D_MOVIE, None]).T
    movies = movies / movies.std()

    def part(users: Tensor) -> dict[str, Tensor]:
        span = LENGTH + CANDIDATES
        windows = [lists[u].unfold(0, span, CANDIDATES) for u in users if len(lists[u]) >= span]
        past, asked = torch.cat(windows).split([LENGTH, CANDIDATES], dim=1)
        level = rating[past].mean(1, keepdim=True)
        history = movies[movie[past]]
        tokens = torch.cat([history, (rating[past] - level)[..., None]], -1)
        candidates = movies[movie[asked]]
        cosines = nn.functional.normalize(candidates, dim=-1) @ nn.functional.normalize(
            history, dim=-1
        ).transpose(1, 2)
        by_length = history.norm(dim=-1).argsort(1)[..., None].expand_as(tokens)
        return {
            "tokens": tokens,
            "sorted": tokens.gather(1, by_length),
            "candidates": candidates,
            "answers": (SHARPNESS * cosines).softmax(-1) @ tokens,
            "ratings": rating[asked] - level,
            "liked": likes[movie[asked]],
            "users": user[past[:, 0]],
        }

    return {name: part(users) for name, users in parts.items()}


class Reader(nn.Module):
    """A compressor, and the attention layer by which a candidate asks what it made."""

    def __init__(self, compressor: str, m: int, reader: str) -> None:
        super().__init__()
        self.compressor = compressor
        d_token = D_MOVIE + 1
        if compressor == "means":
            self.register_buffer("W", matrix(MeanPooling(LENGTH, m)).float())
        elif compressor in ("lce", "sorted lce"):
            self.W = nn.Parameter(torch.randn(m, LENGTH) / 16 + 1 / LENGTH)
        elif compressor == "latents":
            self.latents = nn.Parameter(torch.randn(m, D_MOVIE))
            self.keys = nn.Sequential(nn.LayerNorm(d_token), nn.Linear(d_token, D_MOVIE))
        self.query = nn.Linear(D_MOVIE, WIDTH)
        self.normed = reader == "normed"
        if self.normed:
            self.of_tokens, self.of_candidates = nn.LayerNorm(d_token), nn.LayerNorm(D_MOVIE)
        d_kv = 2 * d_token if self.normed else d_token
        self.attention = MultiHeadAttention(WIDTH, HEADS, d_kv=d_kv)
        self.out, self.direct = nn.Linear(WIDTH, d_token), nn.Linear(D_MOVIE, d_token)
        self.level = nn.Parameter(torch.ones(()))

    def compress(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["sorted" if self.compressor == "sorted lce" else "tokens"]
        if self.compressor == "whole":
            return x
        if self.compressor == "latents":  # W(x), for the tokens as they are
            return (self.latents @ self.keys(x).mT / 2).softmax(-1) @ x
        return self.W @ x

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """What is read for each candidate, (histories, candidates, d_token)."""
        asked = batch["candidates"]
        read = self.direct(asked)
        if self.compressor != "none":
            kept = self.compress(batch)
            if self.normed:
                asked, kept = self.of_candidates(asked), torch.cat([self.of_tokens(kept), kept], -1)
            read = read + self.out(self.attention(self.query(asked), kept))
        return read

    def rating(self, batch: dict[str, Tensor]) -> Tensor:
        read = self(batch)
        fits = (read[..., :-1] * batch["candidates"]).sum(-1) / D_MOVIE
        return self.level * batch["liked"] + fits + read[..., -1]


def errors(network: Reader, batch: dict[str, Tensor], target: str) -> Tensor:
    """Squared errors, one for each candidate."""
    if target == "ratings":
        return (network.rating(batch) - batch["ratings"]).square()
    return (network(batch) - batch["answers"]).square().sum(-1)


def share(network: Reader, part: str, target: str) -> tuple[float, float]:
    """The share of the variance that is explained, and its error by the users (jackknife)."""
    batch = data()[part]
    level = data()["train"][target].mean((0, 1)) if target == "answers" else 0
    power = (batch[target] - level).square().flatten(1).sum(1)
    lost = errors(network, batch, target).sum(1)
    _, user = batch["users"].unique(return_inverse=True)
    n = int(user.max()) + 1
    lost, power = (torch.zeros(n).index_add(0, user, values) for values in (lost, power))
    without = 1 - (lost.sum() - lost) / (power.sum() - power)  # one user left out
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return 1 - float(lost.sum() / power.sum()), float(error)


def run(job: dict) -> dict:
    runs.without_checks()
    seed_everything(job["seed"])
    network = Reader(job["compressor"], job["m"], job["reader"])
    rows = data()["train"]

    def batches(generator: torch.Generator):
        while True:
            i = torch.randint(len(rows["users"]), (BATCH,), generator=generator)
            yield {name: values[i] for name, values in rows.items()}

    best: tuple[float, ...] = (-1.0, -1.0, 0.0)

    def evaluate(network: Reader) -> float:
        nonlocal best
        found, _ = share(network, "validation", job["target"])
        if found > best[0]:  # the step is chosen, too
            best = found, *share(network, "test", job["target"])
        return found

    config = runs.config(job, 30, 20, weight_decay=0.01)
    train(network, batches, lambda n, b: errors(n, b, job["target"]).flatten(), config, evaluate)
    return {
        "parameters": runs.count(network),
        "validation": round(best[0], 4),
        "test": round(best[1], 4),
        "error_by_users": round(best[2], 4),
    }


def main() -> None:
    options = runs.parser(__doc__, SEEDS, steps=STEPS).parse_args()
    settings = [(name, m) for m in SIZES for name in COMPRESSORS]
    settings = [("none", 0), ("whole", LENGTH), *settings]
    jobs = [
        {
            "target": target,
            "compressor": name,
            "m": m,
            "reader": reader,
            "lr": lr,
            "seed": seed,
            "steps": options.steps,
        }
        for target in ("answers", "ratings")
        for seed in options.seeds
        for lr in RATES
        for name, m in settings
        for reader in (READERS if m else READERS[:1])
        if target == "answers" or m in (0, LENGTH, 16)
    ]
    counts = {name: [len(p["users"]), len(p["users"].unique())] for name, p in data().items()}
    fixed = {"batch": BATCH, "learning_rates": RATES, "histories and users": counts}
    runs.Runner("perceiver_history", run, fixed, options)(jobs)


if __name__ == "__main__":
    main()
