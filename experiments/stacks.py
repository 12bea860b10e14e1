"""Many small models trained at once: stacked, one matrix product for all.

A model of chapter 07 is so small that a GPU, or a CPU, spends its time on calls and not on
numbers. Models that differ in seed, learning rate, weight decay and dropout alone have the same
shapes: their parameters are stacked, and one step trains all of them. Each is trained as
``linear_time.ranking.fit`` would train it, with the same batches, start, schedule, clipping and
AdamW: `tests/test_movielens.py` holds the two together.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from linear_time.ranking import Fields, Ranker, Split
from linear_time.training import Config, learning_rate, parameter_groups, seed_everything

CHUNK = 2048  # rows of an evaluation


class Setting(NamedTuple):
    """In what the models of a stack differ."""

    lr: float
    weight_decay: float  # of matrices, those of the linear part apart
    linear_decay: float  # of the linear part: one weight a value
    dropout: float
    seed: int


class Fitted(NamedTuple):
    """One entry a setting; at the best evaluation on the validation rows (early stopping)."""

    validation: Tensor  # least log loss, (models,); inf where a run diverged before its first
    best_step: Tensor  # steps until then, (models,)
    test: Tensor  # logits of the test rows, (models, rows)


class Stack:
    """The parameters of several models of the same shapes as one matrix, a row a model."""

    def __init__(
        self, build: Callable[[], Ranker], settings: Sequence[Setting], device: torch.device
    ) -> None:
        made = {}
        for seed in {setting.seed: None for setting in settings}:
            seed_everything(seed)
            made[seed] = build()
        self.model = next(iter(made.values())).to(device)
        parameters = dict(self.model.named_parameters())
        self.shapes = {name: p.shape for name, p in parameters.items()}
        starts = {
            seed: torch.cat([p.detach().flatten() for p in model.parameters()]).to(device)
            for seed, model in made.items()
        }
        self.flat = torch.stack([starts[setting.seed] for setting in settings])
        decayed = {
            id(p)
            for group in parameter_groups(self.model, 1, 1)
            for p in group["params"]
            if group["weight_decay"]
        }

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device)

        weight_decay = column([setting.weight_decay for setting in settings])
        linear_decay = column([setting.linear_decay for setting in settings])
        sizes, decays = [], []
        for name, p in parameters.items():
            decay = linear_decay if name.startswith("linear.") else weight_decay
            sizes.append(p.numel())
            decays.append(decay * (id(p) in decayed))
        self.sizes = torch.tensor(sizes, device=device)
        self.decay = torch.stack(decays, 1)  # (models, parameters by name)
        self.lr = column([setting.lr for setting in settings])
        self.dropout = column([setting.dropout for setting in settings])
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)

        def logits(parameters: dict[str, Tensor], codes: Tensor, genres: Tensor) -> Tensor:
            found: Tensor = functional_call(self.model, parameters, (codes, genres))
            return found

        def loss(
            parameters: dict[str, Tensor],
            dropout: Tensor,
            codes: Tensor,
            genres: Tensor,
            label: Tensor,
        ) -> Tensor:
            logit = logits({**parameters, "dropout": dropout}, codes, genres)
            return functional.binary_cross_entropy_with_logits(logit, label)

        self.gradients = vmap(grad_and_value(loss), randomness="different")
        self.forward = vmap(logits, in_dims=(0, None, None))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = flat.split(sizes, dim=1)
        return {
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def step(
        self, number: int, schedule: float, clip: float, codes: Tensor, genres: Tensor, y: Tensor
    ) -> None:
        """One of AdamW's, ``number`` counted from 1; each model clips its own gradient."""
        self.model.train()
        gradient, _ = self.gradients(self.views(self.flat), self.dropout, codes, genres, y)
        g = torch.cat([gradient[name].reshape(len(codes), -1) for name in self.shapes], dim=1)
        norm = g.norm(dim=1, keepdim=True)
        g *= (clip / (norm + 1e-6)).clamp(max=1)
        beta_1, beta_2 = 0.9, 0.999
        self.first.lerp_(g, 1 - beta_1)
        self.second.mul_(beta_2).addcmul_(g, g, value=1 - beta_2)
        lr = (self.lr * schedule)[:, None]
        self.flat *= (1 - lr * self.decay).repeat_interleave(self.sizes, dim=1)
        root = self.second.sqrt().div_(math.sqrt(1 - beta_2**number)).add_(1e-8)
        self.flat -= lr / (1 - beta_1**number) * self.first / root

    @torch.no_grad()
    def logits(self, flat: Tensor, fields: Fields, rows: Tensor) -> Tensor:
        self.model.eval()
        views = self.views(flat)
        parts = [
            self.forward(views, fields.codes[at], fields.genres[at]) for at in rows.split(CHUNK)
        ]
        return torch.cat(parts, dim=1)


def batches(rows: Tensor, batch: int, seeds: Sequence[int]) -> Iterator[Tensor]:
    """Row numbers (models, batch): every seed's own order, every row once an epoch, as ``fit``."""
    generators = {seed: torch.Generator().manual_seed(seed) for seed in seeds}
    while True:
        orders = {s: torch.randperm(len(rows), generator=g) for s, g in generators.items()}
        order = torch.stack([orders[seed] for seed in seeds]).to(rows.device)
        for at in order.split(batch, dim=1):
            yield rows[at]


def fit_stack(
    build: Callable[[], Ranker],
    settings: Sequence[Setting],
    fields: Fields,
    label: Tensor,
    split: Split,
    epochs: int,
    batch: int = 1024,
    evaluations: int = 11,
    warmup: int = 20,
    clip: float = 1.0,
) -> Fitted:
    """Train all, each as ``fit`` would alone; evaluated so many times an epoch."""
    rows, device = split.train, label.device
    an_epoch = math.ceil(len(rows) / batch)
    shape = Config(steps=epochs * an_epoch, lr=1, warmup=min(warmup, epochs * an_epoch))
    every = max(1, an_epoch // evaluations)
    stack = Stack(build, settings, device)
    held_out = label[split.validation].to(stack.flat.dtype)
    least = torch.full((len(settings),), math.inf, device=device)
    best_step, best = torch.zeros_like(least), stack.flat.clone()
    stream = batches(rows, batch, [setting.seed for setting in settings])
    for step in range(1, shape.steps + 1):
        at = next(stream)
        y = label[at].to(stack.flat.dtype)
        stack.step(step, learning_rate(step, shape), clip, fields.codes[at], fields.genres[at], y)
        if step % every == 0 or step == shape.steps:
            logit = stack.logits(stack.flat, fields, split.validation)
            found = functional.binary_cross_entropy_with_logits(
                logit, held_out.expand_as(logit), reduction="none"
            ).mean(1)
            better = found < least
            least, best_step = (
                torch.where(better, found, least),
                torch.where(better, float(step), best_step),
            )
            best = torch.where(better[:, None], stack.flat, best)
    return Fitted(least, best_step, stack.logits(best, fields, split.test))
