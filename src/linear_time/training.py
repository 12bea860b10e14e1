"""From chapter 01 on: the one training loop of the book.

A run is a model, a stream of batches, a loss and a ``Config``. The loss gives
one number a term (a token, a row) and the loop takes their mean. Under
``torchrun`` the same script trains on several processes: each takes some rows
of every batch, and loss and gradient are those of one process.
"""

import atexit
import hashlib
import math
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from linear_time import _validate
from linear_time.layer import mark_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; TypeError or ValueError where one is wrong."""

    steps: int  # number of updates T ≥ 1
    lr: float | int = 1e-3  # peak learning rate η > 0
    weight_decay: float | int = 0.01  # AdamW's, ≥ 0
    warmup: int = 0  # steps of linear warm-up w, 0 ≤ w ≤ T
    beta2: float | int = 0.999  # AdamW's second, 0 < β₂ < 1
    clip: float | int | None = 1.0  # largest gradient norm; None: no clipping
    seed: int = 0  # of everything random
    eval_every: int | None = None  # in steps; None: after the last one only
    target: float | int | None = None  # stop at a metric at least this good
    lower_is_better: bool = False  # is a low metric a good one?
    progress: bool = True  # a progress bar, in a terminal only

    def __post_init__(self) -> None:
        _validate.number("lr", self.lr)
        _validate.number("weight_decay", self.weight_decay, or_equal=True)
        whole = {"steps": _validate.count("steps", self.steps)}
        for name, most in (("warmup", self.steps), ("seed", 2**32 - 1)):
            value = getattr(self, name)
            kind = isinstance(value, int | np.integer)
            if not kind or isinstance(value, bool) or not 0 <= value <= most:
                raise ValueError(
                    f"{name}: expected a whole number from 0 to {most}, "
                    f"got {_validate.describe(value)}"
                )
            whole[name] = int(value)
        _validate.number("beta2", self.beta2)
        if not self.beta2 < 1:
            raise ValueError(f"beta2: expected less than 1, got {self.beta2}")
        if self.clip is not None:
            _validate.number("clip", self.clip)
        if self.eval_every is not None:
            whole["eval_every"] = _validate.count("eval_every", self.eval_every)
        for name, value in whole.items():  # NumPy's are Python's from here on
            object.__setattr__(self, name, value)
        if self.target is not None and not math.isfinite(self.target):
            raise ValueError(
                f"target: expected a finite number, got {self.target}"
            )


@dataclass(frozen=True)
class History:
    """What a run measured. Steps count from 1."""

    step: Int[np.ndarray, " steps"]
    loss: Float[np.ndarray, " steps"]  # of the whole batch, before the update
    lr: Float[np.ndarray, " steps"]  # where a parameter's scale is 1
    grad_norm: Float[np.ndarray, " steps"]  # before clipping
    eval_step: Int[np.ndarray, " evals"]
    metric: Float[np.ndarray, " evals"]
    reached_target: bool


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch. Do so before you make a model, too."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def learning_rate(step: int, config: Config) -> float:
    """The schedule: linear warm-up to η at step w, then half a cosine.

    η_k = η k/w                                   for k = 1 … w,
    η_k = η ½ (1 + cos(π (k − w)/(T + 1 − w)))    for k = w + 1 … T.

    It would meet 0 at step T + 1, so that no step is lost.

    Source: Loshchilov & Hutter (2017), "SGDR", equation 5, without restarts.
    """
    if step <= config.warmup:
        return config.lr * step / config.warmup
    along = (step - config.warmup) / (config.steps + 1 - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * along))


def parameter_groups(
    model: nn.Module, lr: float | int, weight_decay: float | int
) -> list[dict[str, Any]]:
    """An optimizer's groups; each trainable parameter is in exactly one.

    Decay acts on parameters of two dimensions or more, unless their module
    says otherwise (``mixer.mark_of``): not on biases and norms, nor on the
    systems of state-space layers. The rate is lr · the mark's ``lr_scale``.

    Raises:
        ValueError: nothing to train.

    Source: Gu, Gupta, Goel & Ré (2022), "On the Parameterization and
        Initialization of Diagonal State Space Models".
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[Tensor] = set()  # a shared parameter is its first module's
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            mark = mark_of(module, name)
            scale, decay = mark.lr_scale, weight_decay * mark.decay
            new = {"lr": lr * scale, "lr_scale": scale, "weight_decay": decay}
            group = groups.setdefault((scale, decay), {**new, "params": []})
            group["params"].append(parameter)
    if not groups:
        raise ValueError("model: expected trainable parameters, got none")
    return list(groups.values())


def train(
    model: nn.Module,
    batches: Callable[[torch.Generator], Iterable[Any]],
    loss: Callable[[nn.Module, Any], Tensor],
    config: Config,
    evaluate: Callable[[nn.Module], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every: int = 100,
) -> History:
    """Train a model in place, on its device.

    With ℓ_i the n terms of a batch and g the gradient of their mean:
    g ← g · min(1, clip/‖g‖), then AdamW at the step's ``learning_rate``.

    Args:
        model: its layers may mark parameters, see ``parameter_groups``.
        batches: ``batches(generator)`` yields batches, random through the
            generator alone: tensors with rows along dimension 0, or tuples,
            lists or dicts of such.
        loss: ``loss(model, batch)`` gives the terms ℓ_i, not their mean. With
            torch's: ``cross_entropy(model(x), y, reduction="none")``, with
            ``model(x).mT`` where every position has a class. Positions that
            do not count are left out, ``model(x)[kept]`` and ``y[kept]``: an
            ``ignore_index`` would make them terms of 0.
        config: the settings.
        evaluate: ``evaluate(model)`` gives a number, in eval mode.
        checkpoint: a file for what the run needs to go on: the model's state
            (its ``state_dict``), the optimizer's, the steps so far and the
            random states. Where there is one of this run, the run goes on
            from it, to the same last bit; from a finished one it returns at
            once. The batches before are drawn again, and dropped.
        every: so many steps apart it is written, and at the end. It takes
            the place of the one before at once: a kill loses the steps since.

    Under ``torchrun`` (gloo on CPUs, NCCL on GPUs), dropout and batch
    normalisation differ from one process: each draws, or sees, its own rows.
    There a model may be sharded by torch's ``fully_shard``; chapter 23.

    Raises:
        FloatingPointError: loss or gradient is not finite; the message names
            the step, and that update is not made.
        TypeError, ValueError: an argument is not as above, or the checkpoint
            is damaged or another run's; the message says in what.
    """
    _validate.count("every", every)
    if evaluate is None and (config.eval_every or config.target is not None):
        raise ValueError("evaluate: expected with eval_every or target")
    groups = parameter_groups(model, config.lr, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.beta2))
    rank, world, device = _join(model)
    seed_everything((config.seed + rank) % 2**32)
    saved = None
    # What fully_shard has cut are torch's DTensors.
    sharded = any(hasattr(p, "full_tensor") for p in model.parameters())
    if checkpoint is not None and sharded:
        raise ValueError(
            "checkpoint: expected None for a sharded model, of which no "
            f"process holds the whole, got {checkpoint}; torch has "
            "torch.distributed.checkpoint for such"
        )
    if checkpoint is not None:
        saved = _Checkpoint(checkpoint, model, optimizer, config, world)
    stream = iter(batches(torch.Generator().manual_seed(config.seed)))
    terms_of: nn.Module = _Terms(model, loss)
    if world > 1 and not sharded:
        # A parameter that a batch leaves unused must not stop the others.
        terms_of = DistributedDataParallel(
            terms_of, find_unused_parameters=True
        )
    rows, evaluated, reached = saved.load() if saved else ([], [], False)
    begin, last = len(rows), config.steps
    if reached or begin == last:
        return _history(rows, evaluated, reached)
    for _ in range(begin):
        next(stream, None)
    if saved:
        saved.wind(rank)  # the batches may have drawn, too
    was_training = model.training
    hidden = True if rank or not config.progress else None  # None: no terminal
    steps = range(begin + 1, last + 1)
    for step in tqdm(steps, disable=hidden, initial=begin, total=last):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        batch = next(stream, None)
        if batch is None:
            raise ValueError(f"batches: expected one for step {step}, got none")
        model.train()
        terms = terms_of(_shard(batch, rank, world, device))
        mean, value = _mean(terms, world)
        optimizer.zero_grad()
        mean.backward()
        clip = math.inf if config.clip is None else config.clip
        norm = _whole(nn.utils.clip_grad_norm_(model.parameters(), clip)).item()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise FloatingPointError(
                f"loss: expected a finite number, got {value} with a "
                f"gradient of norm {norm} at step {step}"
            )
        optimizer.step()
        rows.append((step, value, rate, norm))
        due = step % (config.eval_every or config.steps) == 0
        if evaluate and (due or step == config.steps):
            with torch.no_grad():
                metric = _agreed(evaluate(model.eval()), world, device)
            evaluated.append((step, metric))
            if config.target is not None:
                sign = -1 if config.lower_is_better else 1
                reached = sign * metric >= sign * config.target
        if saved and (reached or step == last or step % every == 0):
            saved.save(rank, (rows, evaluated, reached))
        if reached:
            break
    model.train(was_training)
    return _history(rows, evaluated, reached)


def _history(rows: list[Any], evaluated: list[Any], reached: bool) -> History:
    done, losses, rates, norms = np.array(rows, dtype=float).T
    at, metrics = np.array(evaluated, dtype=float).reshape(-1, 2).T
    done, at = done.astype(int), at.astype(int)
    return History(done, losses, rates, norms, at, metrics, reached)


class _Checkpoint:
    """The file from which a run goes on."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: Config,
        world: int,
    ) -> None:
        self.path, self.world = Path(path), world
        self.model, self.optimizer = model, optimizer
        start = hashlib.sha256()
        for name, tensor in model.state_dict().items():
            what = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
            start.update(what.encode() + _bytes(tensor))
        #: What must be equal for the run to be the same.
        self.run = {
            **{k: str(v) for k, v in asdict(config).items()},
            "processes": str(world),
            "start of the model": start.hexdigest()[:16],
        }
        del self.run["progress"]
        self.random: list[Any] = []

    def load(self) -> tuple[list[Any], list[Any], bool]:
        """The steps and metrics so far; model and optimizer are set."""
        if not self.path.exists():
            return [], [], False
        try:
            read = torch.load(self.path, map_location="cpu", weights_only=True)
            run, history = read["run"], read["history"]
            rows, evaluated, reached = history
            states, model, slots = read["random"], read["model"], read["slots"]
        except Exception as error:  # torch raises what the bytes lead it to
            raise ValueError(
                "checkpoint: expected a file that train has written, got "
                f"{self.path}, which cannot be read ({type(error).__name__})"
            ) from error
        for name, value in self.run.items():
            if run.get(name) != value:
                raise ValueError(
                    f"checkpoint: expected one of this run ({name}: {value}), "
                    f"got {self.path}, of another ({name}: {run.get(name)})"
                )
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(slots)
        self.random = states
        return list(rows), list(evaluated), reached

    def wind(self, rank: int) -> None:
        """Set the random states of this process."""
        if self.random:
            _set_random(self.random[rank])

    def save(self, rank: int, history: tuple[Any, ...]) -> None:
        states = [_random()]
        if self.world > 1:
            states *= self.world
            distributed.all_gather_object(states, states[rank])
        if rank:
            return
        content = {"run": self.run, "history": history, "random": states}
        content["model"] = self.model.state_dict()
        content["slots"] = self.optimizer.state_dict()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(self.path.name + ".new")
        with unfinished.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def _random() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    states: dict[str, Any] = {"python": random.getstate()}
    states["numpy"] = (kind, np.asarray(keys).tolist(), *rest)
    states["torch"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random(states: dict[str, Any]) -> None:
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(states["numpy"]))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


class _Terms(nn.Module):
    """The loss as a module: DDP wraps this, and the model stays itself."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        terms = self.loss(self.model, batch)
        if not isinstance(terms, Tensor) or terms.ndim == 0:
            raise ValueError(
                "loss: expected the terms, not their mean "
                f"(reduction='none'), got {_validate.describe(terms)}"
            )
        return terms


def _mean(terms: Tensor, world: int) -> tuple[Tensor, float]:
    """The mean over all processes: to differentiate, and its value.

    DDP averages the gradients of W processes: W/n Σ ℓ_i in each, over its own
    terms, gives the gradient of the mean over all n.
    """
    total, n = terms.detach().sum().item(), terms.numel()
    if world > 1:
        sums = torch.tensor(
            [total, n], dtype=torch.float64, device=terms.device
        )
        distributed.all_reduce(sums)
        total, n = sums.tolist()
    if n == 0:
        raise ValueError("loss: expected at least one term, got none")
    return terms.sum() * (world / n), total / n


def _whole(x: Tensor) -> Tensor:
    """Of a sharded model's number, each process has a part."""
    whole: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole


def _shard(batch: Any, rank: int, world: int, device: torch.device) -> Any:
    """This process's rows of every tensor in the batch, on the device."""
    if isinstance(batch, dict):
        return {k: _shard(v, rank, world, device) for k, v in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_shard(v, rank, world, device) for v in batch)
    if not isinstance(batch, Tensor) or batch.ndim == 0 or len(batch) < world:
        raise ValueError(
            f"batches: expected tensors of at least {world} rows, "
            f"got {_validate.describe(batch)}"
        )
    return batch.tensor_split(world)[rank].to(device)


def _join(model: nn.Module) -> tuple[int, int, torch.device]:
    """Rank, number of processes, and device; moves a model to its GPU."""
    device = next(model.parameters()).device
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        model.to(device)
    if not distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend)
        atexit.register(distributed.destroy_process_group)
    return distributed.get_rank(), distributed.get_world_size(), device


def _agreed(value: Any, world: int, device: torch.device) -> float:
    """The first process's value, in all."""
    if world == 1:
        return float(value)
    agreed = torch.tensor(float(value), dtype=torch.float64, device=device)
    distributed.broadcast(agreed, src=0)
    return agreed.item()
