"""Small models trained side by side on one GPU: an update of each is one CUDA graph.

A model of 64 channels leaves a GPU idle, and Python takes longer to ask for its kernels than they
run. Here a whole update (batch, loss, gradient, clipping, AdamW) is recorded once and replayed, and
each model has a stream of its own. Every model is trained as ``linear_time.training.train`` trains
it alone.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from linear_time.training import Config, learning_rate, parameter_groups

Batches = tuple[Tensor, ...]  # each (updates, rows, …)
CHUNK = 50  # updates whose batches are drawn at once


class Trainee:
    """A network and its own optimizer, batches and stream.

    Args:
        network: on its device.
        draw: ``draw(generator, n)`` makes the batches of n updates; random through the generator
            alone, which lives on the network's device.
        loss: ``loss(network, *batch)`` gives the terms, as many for every batch.
        config: as for ``train``; ``target`` and ``eval_every`` are left to the caller.
        constant: after the warm-up the rate stays, in the place of ``train``'s half a cosine.
    """

    def __init__(
        self,
        network: nn.Module,
        draw: Callable[[torch.Generator, int], Batches],
        loss: Callable[..., Tensor],
        config: Config,
        constant: bool = False,
    ) -> None:
        self.network, self.draw, self.loss, self.config = network.train(), draw, loss, config
        self.device = next(network.parameters()).device
        self.on_gpu = self.device.type == "cuda"
        self.groups = parameter_groups(network, 1.0, config.weight_decay)
        for group in self.groups:
            group["lr"] = torch.zeros((), device=self.device)
        self.optimizer = torch.optim.AdamW(
            self.groups, betas=(0.9, config.beta2), foreach=self.on_gpu, capturable=self.on_gpu
        )
        self.stream = torch.cuda.Stream(self.device) if self.on_gpu else None
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        rates = [
            config.lr if constant and step > config.warmup else learning_rate(step, config)
            for step in range(1, config.steps + 1)
        ]
        self.rates = torch.tensor([0.0, *rates], device=self.device)
        self.losses = torch.full((config.steps + 1,), math.nan, device=self.device)
        self.done, self.ended = 0, False
        self.curve: list[list[float]] = []  # the caller's, of its evaluations
        self.step = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.place = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.batches: Batches = ()
        self.replay: Callable[[], None] | None = None

    def on_stream(self) -> Any:
        return torch.cuda.stream(self.stream) if self.on_gpu else nullcontext()

    def update(self) -> None:
        """One update, by the step and the place in the batches that the device holds."""
        batch = [x.index_select(0, self.place)[0] for x in self.batches]
        rate = self.rates.index_select(0, self.step)[0]
        for group in self.optimizer.param_groups:
            group["lr"].copy_(rate * group["lr_scale"])
        terms = self.loss(self.network, *batch)
        mean = terms.mean()
        self.optimizer.zero_grad()
        mean.backward()
        if self.config.clip is not None:
            clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        with torch.no_grad():
            self.losses.index_copy_(0, self.step, mean.detach()[None].float())
            self.step.add_(1)
            self.place.add_(1)

    def refill(self, n: int) -> None:
        """The batches of the next n updates; n never grows."""
        new = self.draw(self.generator, n)
        if not self.batches:
            self.batches = new
        else:
            for old, x in zip(self.batches, new, strict=True):
                old[:n].copy_(x)
        self.place.zero_()

    def record(self) -> None:
        """Make the update a graph. It is tried at the rate 0, which changes no parameter."""
        if not self.on_gpu:
            self.step.fill_(1)
            self.replay = self.update
            return
        for _ in range(3):
            self.step.zero_()
            self.place.zero_()
            self.update()
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.update()
        for state in self.optimizer.state.values():
            for x in state.values():
                x.zero_()
        self.step.fill_(1)
        self.place.zero_()
        self.replay = graph.replay

    def kept(self) -> dict[str, Any]:
        """All that a run goes on from, at the end of a chunk of batches."""
        return {
            "network": self.network.state_dict(),
            "optimizer": [self.optimizer.state[p] for p in self.network.parameters()],
            "generator": self.generator.get_state(),
            "losses": self.losses,
            **{name: getattr(self, name) for name in ("done", "ended", "curve")},
        }

    @torch.no_grad()
    def go_on(self, kept: dict[str, Any]) -> None:
        """From there; in place, since a graph has the tensors' addresses."""
        self.network.load_state_dict(kept["network"])
        for p, old in zip(self.network.parameters(), kept["optimizer"], strict=True):
            if self.on_gpu:
                for name, x in self.optimizer.state[p].items():
                    x.copy_(old[name])
            else:
                self.optimizer.state[p] = dict(old)
        self.generator.set_state(kept["generator"].cpu())
        self.losses.copy_(kept["losses"])
        self.done, self.ended, self.curve = kept["done"], kept["ended"], kept["curve"]
        self.step.fill_(self.done + 1)

    def finite(self) -> bool:
        """Whether the losses so far are numbers."""
        return bool(self.losses[1 : self.done + 1].isfinite().all())


def train_side_by_side(
    trainees: Sequence[Trainee],
    evaluate: Callable[[Trainee], float],
    every: int,
    target: float = math.inf,
    seconds: float = math.inf,
    keep: Path | None = None,
) -> bool:
    """Train them to their ends; whether there was the time for it.

    Args:
        trainees: whose configs have equal numbers of steps.
        evaluate: a metric of one, in eval mode, without gradients; the larger the better.
        every: updates from one evaluation to the next.
        target: a trainee that is at least this good when evaluated has ended.
        seconds: if it would take longer, it gives up.
        keep: a file: then it does not give up before, and is gone on with from this file, which is
            deleted at the end.
    """
    steps, begin = trainees[0].config.steps, time.perf_counter()
    chunk = min(CHUNK, every)
    assert every % chunk == 0 and all(t.config.steps == steps for t in trainees)
    gc.collect()  # a graph that is freed while another is recorded ends the recording
    for t in trainees:
        with t.on_stream():
            t.refill(chunk)
            t.record()
    done = 0
    if keep is not None and keep.exists():
        kept = torch.load(keep, map_location=trainees[0].device)
        for t, old in zip(trainees, kept, strict=True):
            with t.on_stream():
                t.go_on(old)
        done = max(t.done for t in trainees)
    _wait(trainees)
    active = [t for t in trainees if not t.ended]
    first, before = time.perf_counter(), done
    while active and done < steps:
        n = min(chunk, steps - done)
        if done:
            for t in active:
                with t.on_stream():
                    t.refill(n)
        for _ in range(n):
            for t in active:
                with t.on_stream():
                    assert t.replay is not None
                    t.replay()
        done += n
        for t in active:
            t.done = done
        _wait(active)
        if done % every == 0 or done == steps:
            for t in active:
                with t.on_stream(), torch.no_grad():
                    good = t.finite() and evaluate(t) >= target
                    t.network.train()
                t.ended = good or not t.finite()
            active = [t for t in active if not t.ended]
        now = time.perf_counter()
        late = now - begin > seconds
        if keep is None and target == math.inf:
            late |= now - begin + (now - first) / (done - before) * (steps - done) > seconds
        if late and active and done < steps:
            if keep is not None:
                unfinished = keep.with_name(keep.name + ".new")
                torch.save([t.kept() for t in trainees], unfinished)
                unfinished.replace(keep)  # a kill leaves the one before
            return False
    if keep is not None:
        keep.unlink(missing_ok=True)
    return True


def _wait(trainees: Sequence[Trainee]) -> None:
    if trainees and trainees[0].on_gpu:
        torch.cuda.synchronize()
