"""Checks of chapter 19."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from linear_time.exercises import (
    Cases,
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.mamba import Mamba
from linear_time.mixer import LanguageModel, Residual
from linear_time.s4 import S4D
from linear_time.tasks import (
    NO_ANSWER,
    accuracy,
    associative_recall,
    induction_heads,
    selective_copying,
)


def seeded(cases: Cases) -> torch.Generator:
    return torch.Generator().manual_seed(cases.integer(0, 2**31))


@exercise("19-oracle")
def oracle(answer, cases):
    sizes = [(1, 4, 1), (3, 12, 3)]
    for _ in range(4):
        n_pairs = cases.integer(2, 6)
        length = 4 * n_pairs + 2 * cases.integer(0, 6)
        sizes.append((cases.integer(2, 5), length, n_pairs))
    for i, (batch, length, n_pairs) in enumerate(sizes):
        vocab_size = 2 * (n_pairs + cases.integer(1, 9))
        random_filler = i % 2 == 1  # in which keys come by chance
        tokens, _ = associative_recall(
            *(batch, length, n_pairs, vocab_size, 0.5, random_filler),
            generator=seeded(cases),
        )
        keys, values = tokens[:, : 2 * n_pairs].view(batch, -1, 2).unbind(2)
        known = tokens[:, :, None] == keys[:, None]  # (batch, length, n_pairs)
        known[:, : 2 * n_pairs] = False
        said = values.gather(1, known.double().argmax(2))
        targets = torch.where(known.any(2), said, NO_ANSWER)
        got = plain(answer(tokens.clone(), n_pairs))
        given = f"{batch} sequences of {length} tokens with {n_pairs} pairs"
        given += " and random filler" if random_filler else ""
        if isinstance(got, list):
            got = torch.as_tensor(got)
        expect(
            isinstance(got, Tensor) and got.shape == tokens.shape,
            f"For {given}: expected whole numbers of shape "
            f"{tuple(tokens.shape)}, one for each token.",
        )
        later = torch.where(targets == NO_ANSWER, NO_ANSWER, tokens)
        expect_equal(
            got,
            targets,
            given,
            slips={
                "these are the keys, not their values": later,
                "the answers stand one place late": targets.roll(1, 1),
                "where nothing is asked, NO_ANSWER is expected": targets.clamp(
                    min=0
                ),
            },
        )


@exercise("19-bits")
def bits(answer, cases):
    both = answer()
    expect(
        isinstance(both, tuple | list)
        and len(both) == 2
        and all(map(callable, both)),
        "Expected a pair of functions, of copying and of recall.",
    )
    copying, recall = both
    for n in (1, 16, cases.integer(2, 400)):
        kinds = cases.integer(2, 60)
        expect_close(
            copying(n, kinds),
            n * math.log2(kinds),
            f"copying {n} tokens of {kinds} kinds",
            slips={
                "that is without their order": math.log2(
                    math.comb(kinds + n - 1, n)
                )
            },
        )
    for n in (1, 16, cases.integer(2, 60)):
        keys, values = n + cases.integer(0, 500), n + cases.integer(0, 500)
        tables = math.log2(math.comb(keys, n) * math.perm(values, n))
        expect_close(
            recall(n, keys, values),
            tables,
            f"{n} pairs of {keys} keys and {values} values",
            rtol=1e-9,
            slips={
                "pairs in another order are the same table": math.log2(
                    math.perm(keys, n) * math.perm(values, n)
                ),
                "no value comes twice": math.log2(math.comb(keys, n))
                + n * math.log2(values),
                "which keys there are is not known beforehand": math.log2(
                    math.perm(values, n)
                ),
            },
        )


@exercise("19-error")
def error(answer, cases):
    for n, k in ((2, 1), (cases.integer(20, 60), cases.integer(3, 9)), (5, 40)):
        hard = cases.randn(n, 1)  # one sequence is harder than another
        right = hard + 0.3 * cases.randn(n, k) > 0
        right[0], right[1] = True, False
        means = right.double().mean(1)
        wanted = float(means.std() / math.sqrt(n))
        p = float(means.mean())
        expect_close(
            answer(right.clone()),
            wanted,
            f"{n} sequences of {k} answers",
            slips={
                "answers of one sequence are not independent": math.sqrt(
                    p * (1 - p) / (n * k)
                ),
                "that is the spread of sequences, not of their mean": float(
                    means.std()
                ),
                "divide by one less than the number of sequences": float(
                    means.std(correction=0) / math.sqrt(n)
                ),
            },
        )


class _Pieces(LanguageModel):
    """A model that counts how it is read."""

    most, longest, calls = 0, 0, 0

    def prefill(
        self, tokens: Tensor, state: Any = None, mask: Any = None
    ) -> Any:
        self.longest = max(self.longest, tokens.shape[1])
        self.calls += 1
        if self.longest > self.most:
            raise Wrong(
                f"Expected pieces of at most {self.most} tokens, got one of "
                f"{self.longest}."
            )
        return super().prefill(tokens, state, mask)

    def forward(self, *_: Any) -> Any:
        raise Wrong(
            "Expected prefill on pieces, got a call of the whole model."
        )

    def step(self, *_: Any) -> Any:
        raise Wrong("Expected prefill on pieces, got a step of one token.")

    def generate(self, *_: Any, **__: Any) -> Any:
        raise Wrong("Expected prefill on pieces, got a call of generate.")


def _block(mixer: Any) -> Residual:
    return Residual(mixer(8))


@exercise("19-pieces")
def pieces(answer, cases):
    for block in (Mamba, S4D):
        for exact in (True, False):
            seed = cases.integer(0, 2**31)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                blocks = functools.partial(_block, block)
                model = _Pieces(blocks, 11, 8, 2).double()
            piece = cases.integer(3, 9)
            length = piece * cases.integer(3, 6)
            length += 0 if exact else cases.integer(1, piece - 1)
            tokens = torch.randint(
                11, (cases.integer(1, 3), length), generator=seeded(cases)
            )
            with torch.no_grad():
                wanted = LanguageModel.forward(model, tokens)[:, -1]
                tail = LanguageModel.forward(model, tokens[:, -piece:])[:, -1]
                model.most, model.longest, model.calls = piece, 0, 0
                got = answer(model, tokens.clone(), piece)
            given = f"{block.__name__}, {length} tokens in pieces of {piece}"
            expect_close(
                got,
                wanted,
                given,
                slips={"the state was not handed on": tail},
            )
            most = -(-length // piece)
            expect(
                model.calls <= most,
                f"For {given}: expected {most} calls of prefill, got "
                f"{model.calls}.",
            )


def _permuted(batch, length, n_tokens, vocab_size, generator):
    """Selective copying, written in another way than the library's."""
    tokens = torch.zeros(batch, length + n_tokens, dtype=torch.int64)
    targets = torch.full_like(tokens, NO_ANSWER)
    tokens[:, length:] = vocab_size - 1
    for row, answers in zip(tokens, targets, strict=True):
        places = torch.randperm(length, generator=generator)[:n_tokens].sort()
        data = torch.randint(
            1, vocab_size - 1, (n_tokens,), generator=generator
        )
        row[places.values] = data
        answers[length:] = data
    return tokens, targets


def _makers() -> tuple[list[Callable], dict[str, Callable]]:
    """Right generators of selective copying, and broken ones."""

    def library(batch, length, n_tokens, vocab_size, generator):
        return selective_copying(
            batch, length, n_tokens, vocab_size, generator=generator
        )

    def change(how: Callable[[Tensor, Tensor, int, int], None]) -> Callable:
        def made(batch, length, n_tokens, vocab_size, generator):
            tokens, targets = library(
                batch, length, n_tokens, vocab_size, generator
            )
            how(tokens, targets, length, vocab_size)
            return tokens, targets

        return made

    def refill(tokens, length, data):
        """Other data tokens in the same places."""
        body = tokens[:, :length]
        body[body > 0] = data.flatten()

    def reverse(tokens, targets, length, vocab_size):
        targets[:, length:] = targets[:, length:].flip(1)

    def ordered(tokens, targets, length, vocab_size):
        data = targets[:, length:].sort(1).values
        refill(tokens, length, data)
        targets[:, length:] = data

    def narrow(tokens, targets, length, vocab_size):
        data = (targets[:, length:] - 1) % max(vocab_size - 3, 1) + 1
        refill(tokens, length, data)
        targets[:, length:] = data

    def crowded(tokens, targets, length, vocab_size):
        tokens[:, :length] = 0
        n = tokens.shape[1] - length
        tokens[:, :n] = targets[:, length:]

    def early(tokens, targets, length, vocab_size):
        tokens[:, :length] = tokens[:, :length].roll(-1, 1)
        wrong = tokens[:, length - 1].clone()
        tokens[:, length - 1] = 0
        free = (tokens[:, :length] == 0).double().argmax(1)
        for i in range(len(tokens)):
            if wrong[i]:
                tokens[i, free[i]] = wrong[i]
        body = tokens[:, :length]
        targets[:, length:] = body[body > 0].view(len(tokens), -1)

    def alike(tokens, targets, length, vocab_size):
        body = tokens[:1, :length] > 0
        tokens[:, :length] = 0
        tokens[:, :length][body.expand(len(tokens), -1)] = targets[
            :, length:
        ].flatten()

    def told(tokens, targets, length, vocab_size):
        tokens[:, length + 1 :] = targets[:, length:-1]

    return [library, _permuted], {
        "the answers are asked for last to first": change(reverse),
        "the data tokens come in increasing order": change(ordered),
        "one kind of data token never comes": change(narrow),
        "all data tokens stand at the beginning": change(crowded),
        "the last place before the markers is never used": change(early),
        "the sequences of a batch have the same places": change(alike),
        "a marker is replaced by the answer before it": change(told),
    }


@exercise("19-bug")
def bug(answer, cases):
    right, bugs = _makers()
    expect_finds_bug(answer, right, bugs, "generator", cases)


FLAWS = ("budget", "edge", "test", "overlap")


def flaws(rows: list[dict], claim: dict) -> set[str]:
    """What is wrong with a claim, from the rows."""
    found: set[str] = set()
    picked: dict[str, list[float]] = {}
    of = {m: [r for r in rows if r["model"] == m] for m in claim["rates"]}
    if len({r["updates"] for own in of.values() for r in own}) > 1:
        found.add("budget")
    for model, own in of.items():
        rates = sorted({r["lr"] for r in own})
        lr = claim["rates"][model]

        def mean(key: str, rate: float, own: list[dict] = own) -> float:
            values = [r[key] for r in own if r["lr"] == rate]
            return sum(values) / len(values)

        if lr in (rates[0], rates[-1]):
            found.add("edge")
        if lr != min(rates, key=lambda rate: mean("validation_loss", rate)):
            found.add("test")
        picked[model] = [r["test"] for r in own if r["lr"] == lr]
    if min(picked[claim["better"]]) <= max(picked[claim["worse"]]):
        found.add("overlap")
    return found


def _claim(cases: Cases, wanted: set[str]) -> tuple[list[dict], dict]:
    """Runs of two models, and a claim that has these flaws and no other."""
    names = cases.shuffled(["Mamba", "S4D", "GRU", "attention"])[:2]
    rates = [1e-3, 2e-3, 4e-3, 8e-3]
    claim: dict = {"better": names[0], "worse": names[1], "rates": {}}
    rows = []
    for k, model in enumerate(names):
        best = cases.integer(1, 2)  # by the validation loss
        if "edge" in wanted and k == 0:
            best = cases.choice([0, 3])
        taken = best
        if "test" in wanted and k == 1:
            taken = 3 - best if best in (1, 2) else 1
        updates = 4000 * (1 + ("budget" in wanted and k == 0))
        level = 0.8 - 0.3 * k
        if "overlap" in wanted:
            level = 0.6
        for i, lr in enumerate(rates):
            for seed in range(3):
                rows.append(
                    {
                        "model": model,
                        "lr": lr,
                        "seed": seed,
                        "updates": updates,
                        "validation_loss": 0.4
                        + 0.1 * abs(i - best)
                        + cases.uniform(-0.02, 0.02),
                        "test": level
                        + 0.02 * (i == taken)
                        + 0.01 * (seed - 1) * (5 if i == taken else 1),
                    }
                )
        claim["rates"][model] = rates[taken]
    return cases.shuffled(rows), claim


@exercise("19-audit")
def audit(answer, cases):
    kinds: list[set[str]] = [set(), set(FLAWS), *({f} for f in FLAWS)]
    for _ in range(4):
        kinds.append({f for f in FLAWS if cases.integer(0, 1)})
    for n, wanted in enumerate(cases.shuffled(kinds), start=1):
        rows, claim = _claim(cases, wanted)
        truth = flaws(rows, claim)
        got = plain(answer([dict(r) for r in rows], copy.deepcopy(claim)))
        ok = isinstance(got, set | list | tuple)
        ok = ok and all(isinstance(f, str) for f in got)
        expect(ok, f"Claim {n}: expected a set of words.")
        for flaw in FLAWS:
            expect(
                flaw not in got or flaw in truth,
                f"Claim {n} of {len(kinds)}: it does not have the flaw "
                f"“{flaw}”.",
            )
            expect(
                flaw in got or flaw not in truth,
                f"Claim {n} of {len(kinds)}: it has the flaw “{flaw}”, which "
                "is not in your set.",
            )
        expect(set(got) <= set(FLAWS), f"Claim {n}: an unknown word.")


@exercise("19-train")
def training(answer, cases):
    model = answer()
    expect(
        isinstance(model, nn.Module),
        "Expected a trained model, a torch module.",
    )
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    expect(
        0 < count <= 40_000,
        f"Expected at most 40,000 trainable weights, got {count:,}.",
    )
    model = model.eval()

    def right(of: nn.Module, length: int, n: int = 128) -> float:
        batch = induction_heads(n, length, 8, generator=seeded(cases))
        return plain(accuracy(of, batch)[0])

    for length, least in ((16, 0.95), (cases.integer(28, 36), 0.9), (64, 0.9)):
        share = right(model, length)
        expect(
            share >= least,
            f"At length {length}: expected {least} of the answers right or "
            f"more, got {share:.2f}.",
        )
    blank = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
    expect(
        right(blank, 16) < 0.5,
        "Expected a model that has learned: with all its weights at 0 yours "
        "still answers.",
    )
