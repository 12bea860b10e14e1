"""Chapter 18: characters of real text, by recurrent networks, a Llama, S4D, Mamba and its parts.

Every model has the frame of ``LanguageModel`` with two blocks and as many parameters as Mamba to
within 2 %, and every run the same updates of the same number of characters. What a character costs
in arithmetic is counted (``flops``), and how long an update takes is measured, one model after the
other with nothing else running. The learning rate is swept for each model, with three seeds each,
and chosen on the validation part.

Beside them what needs no gradient: n-grams with interpolated Kneser–Ney smoothing, and the
compressors of Python's standard library.

``--controls`` runs what the first comparison left open, into a record of its own: the Llama with
the start and the optimizer that are customary for it, the others with that optimizer, larger rates,
S4D with short time constants and Mamba without selection with long ones, and the time of an update
against the length of its pieces, with and without the kernel of the scan.

``--after`` runs the models of later chapters by the same recipe, into a record of its own, and
times their update beside Mamba's against the length of the pieces.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import runs
import torch
from torch import Tensor, nn

from linear_time import scan_triton
from linear_time.baselines import COMPRESSORS, compressed_bits, n_gram
from linear_time.datasets import text
from linear_time.decoder import LlamaBlock
from linear_time.mamba import Mamba
from linear_time.mamba2 import Mamba2
from linear_time.mixer import LanguageModel, Residual, SequenceMixer
from linear_time.recurrent import ElmanRNN
from linear_time.s4 import S4D
from linear_time.training import seed_everything, train

N_LAYER = 2
SEEDS = (0, 1, 2)
WARMUP = 100
ORDERS = tuple(range(1, 11))
PROMPT = "And the LORD said unto "


class Size(NamedTuple):
    """How large a comparison is."""

    length: int  # characters of a training piece
    batch: int
    steps: int
    long: int  # characters read at once where context is measured: eight times the length
    scored: int | None  # characters of validation and test that are scored; None: all
    rates: tuple[float, ...]
    more_rates: tuple[float, ...]  # for a model that is best at that end of the rates
    widths: tuple[int, ...]  # of MODELS in order; they make the numbers of parameters equal


SIZES = {
    "full": Size(
        *(256, 32, 2000, 2048, None, (1e-3, 3e-3, 1e-2), (3e-4, 3e-2)),
        *((128, 96, 275, 139, 238, 135, 129, 138, 134),),
    ),
    # An hour on two cores of a CPU.
    "small": Size(
        *(64, 16, 900, 512, 2**14, (3e-3, 1e-2, 3e-2), ()),
        *((64, 48, 122, 73, 123, 70, 65, 73, 68),),
    ),
}


class FusedElman(ElmanRNN):
    """The library's Elman network; its parallel form by torch's fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(1, len(x), self.d_model)
        bias = self.input.bias
        weights = [self.input.weight, self.recurrent.weight, bias, torch.zeros_like(bias)]
        return torch.rnn_tanh(x, h, weights, True, 1, 0.0, self.training, False, True)[0]


class Bias(nn.Module):
    """What is left of ``dt_proj`` where Δ does not depend on the input."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)


class WithoutSelection(Mamba):
    """Mamba with one Δ for each channel and one B and C for all inputs: a convolution."""

    def __init__(self, d_model: int, **limits: float) -> None:
        super().__init__(d_model, **limits)  # type: ignore[arg-type]
        del self.x_proj
        self.dt_proj = Bias(self.dt_proj.bias.data)  # type: ignore[assignment]
        self.B = nn.Parameter(torch.ones(self.N))
        self.C = nn.Parameter(torch.randn(self.N) / math.sqrt(self.N))

    def choose(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = (*u.shape[:-1], self.N)
        return torch.zeros_like(u), self.B.expand(sizes), self.C.expand(sizes)


class WithoutConvolution(Mamba):
    """Mamba that selects by the present input alone."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, taps=1)
        del self.conv1d

    def convolve(self, window: Tensor) -> Tensor:
        return window


class ConvolutionOnly(SequenceMixer):
    """Mamba without its state: projections, convolution and gate."""

    def __init__(self, d_model: int, taps: int) -> None:
        super().__init__(d_model)
        self.d_inner, self.taps = 2 * d_model, taps
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, taps, groups=self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(x).mT.chunk(2, dim=1)
        u = nn.functional.silu(self.conv1d(nn.functional.pad(u, (self.taps - 1, 0))))
        return self.out_proj((u * nn.functional.silu(z)).mT)

    def initial_state(self, batch_size: int, device: Any = None, dtype: Any = None) -> Tensor:
        return torch.zeros(batch_size, self.d_inner, self.taps - 1, device=device, dtype=dtype)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        u, z = self.in_proj(x_t).chunk(2, dim=-1)
        window = torch.cat([state, u[..., None]], dim=2)
        u = nn.functional.silu(self.conv1d(window)[..., 0])
        return self.out_proj(u * nn.functional.silu(z)), window[..., 1:]


def residual(make: Callable[[int], SequenceMixer]) -> Callable[[int], SequenceMixer]:
    return lambda d_model: Residual(make(d_model))


MODELS: dict[str, Callable[[int], SequenceMixer]] = {
    "mamba": residual(Mamba),
    "llama": lambda d: LlamaBlock(d, 4, 4, d_ff={96: 277, 48: 166}[d]),
    "s4d": residual(S4D),
    "gru": residual(runs.FusedGRU),
    "elman": residual(FusedElman),
    "mamba without selection": residual(WithoutSelection),
    "mamba without convolution": residual(WithoutConvolution),
    "convolution of 4": residual(lambda d: ConvolutionOnly(d, taps=4)),
    "convolution of 32": residual(lambda d: ConvolutionOnly(d, taps=32)),
}


#: Models of the chapters after 18, and their widths at full size: ``--after`` runs them.
AFTER: dict[str, Callable[[int], SequenceMixer]] = {
    "mamba-2": residual(lambda d: Mamba2(d, N=64, P=32)),
    "mamba-2 with Mamba's state": residual(lambda d: Mamba2(d, N=16, P=8)),
}
AFTER_WIDTHS = {"mamba-2": 128, "mamba-2 with Mamba's state": 132}


# Other time constants to start from. A mode of S4D forgets within 2/Δ steps, the slowest of a
# channel of Mamba within 1/Δ: 2 to 200 steps for 20 to 2,000, and 100 to 10,000 for 10 to 1,000.
STARTS: dict[str, dict[str, Callable[[int], SequenceMixer]]] = {
    "short": {"s4d": residual(lambda d: S4D(d, delta_min=1e-2, delta_max=1.0))},
    "long": {
        "mamba without selection": residual(
            lambda d: WithoutSelection(d, delta_min=1e-4, delta_max=1e-2)
        )
    },
}


def width_of(name: str, size: str) -> int:
    return (dict(zip(MODELS, SIZES[size].widths, strict=True)) | AFTER_WIDTHS)[name]


def model(name: str, size: str, vocab_size: int, start: str = "library") -> LanguageModel:
    """A language model by name, with the start of its layers' own code or another.

    "customary" is a Transformer's: every matrix normal with 0.02, and the two of each block that
    add to the residual divided by the root of how many there are.
    """
    width = width_of(name, size)
    make = STARTS.get(start, MODELS | AFTER)[name]
    network = LanguageModel(lambda: make(width), vocab_size, width, N_LAYER)
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith("out_proj.weight"):  # as in ``MambaLM``
            parameter.data /= math.sqrt(N_LAYER)
        if start == "customary" and parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)
            if parameter_name.endswith(("out.weight", "down.weight")):
                parameter.data /= math.sqrt(2 * N_LAYER)
    return network


def flops(name: str, size: str, vocab_size: int) -> dict[str, int]:
    """Multiplications and additions for one character, forward: with weights, and beside them.

    A scan's step is counted as 8 a number of the state (Δ A, exp as one, the two products and the
    sum of h, B u, and the product and sum of C h), and as 5 where a head shares its decay; the FFTs
    of S4D as 5 n log₂ n for each of three of n = 2 L; attention over L characters, of which half
    are past, as 4 a product.
    """
    width, length = width_of(name, size), SIZES[size].length
    network = model(name, size, vocab_size)
    matrices = sum(p.numel() for p in network.parameters() if p.ndim >= 2)
    beside = 0
    for module in network.modules():
        if isinstance(module, Mamba):
            beside += 8 * module.d_inner * module.N
            matrices -= module.A_log.numel()
        elif isinstance(module, Mamba2):
            beside += 5 * module.d_inner * module.N  # the recurrent form's
        elif isinstance(module, S4D):
            n = 2 * length
            beside += round(3 * 5 * n * math.log2(n) * width / length)
            matrices -= sum(
                p.numel() for key, p in module.named_parameters(recurse=False) if p.ndim >= 2
            )
        elif isinstance(module, LlamaBlock):
            beside += 4 * width * length // 2
    return {"weights": 2 * matrices, "beside": beside}


@functools.lru_cache
def data(device: torch.device, size: str) -> tuple[Any, tuple[Tensor, ...]]:
    book = text()
    training, *others = book.parts()
    parts = [training, *(part[: SIZES[size].scored] for part in others)]
    return book, tuple(part.to(device) for part in parts)


def bits(network: nn.Module, part: Tensor, length: int) -> float:
    """Bits a character of a part: each is predicted from at least half a length before it."""
    half = length // 2
    windows = part[: (len(part) - 1) // half * half + 1].unfold(0, length + 1, half)
    total = count = 0.0
    for some in windows.split(128):
        logits = network(some[:, :-1])[:, half:]
        targets = some[:, half + 1 :]
        total += float(nn.functional.cross_entropy(logits.mT, targets, reduction="sum"))
        count += targets.numel()
    return total / (count * math.log(2))


def bits_by_position(network: nn.Module, part: Tensor, long: int) -> list[float]:
    """Bits a character at positions 1, 2–3, 4–7, … of windows far longer than those of training."""
    windows = part[: (len(part) - 1) // long * long + 1].unfold(0, long + 1, long)
    total = torch.zeros(long, dtype=torch.float64, device=part.device)
    for some in windows.split(16):
        logits = network(some[:, :-1])
        total += nn.functional.cross_entropy(logits.mT, some[:, 1:], reduction="none").sum(0)
    mean = total / (len(windows) * math.log(2))
    starts = [2**i - 1 for i in range(round(math.log2(long)) + 1)]
    return [round(float(mean[a : 2 * a + 1].mean()), 4) for a in starts]


def batches(training: Tensor, size: Size, generator: torch.Generator):
    offsets = torch.arange(size.length + 1, device=training.device)
    last = len(training) - size.length - 1
    while True:
        start = torch.randint(last, (size.batch, 1), generator=generator)
        yield training[start.to(training.device) + offsets]


def loss(network: nn.Module, batch: Tensor) -> Tensor:
    logits = network(batch[:, :-1])
    return nn.functional.cross_entropy(logits.mT, batch[:, 1:], reduction="none")


def train_one(job: dict) -> dict:
    runs.without_checks()
    device = runs.device()
    size = SIZES[job["size"]]
    book, (training, validation, test) = data(device, job["size"])
    seed_everything(job["seed"])
    start = job.get("start", "library")
    network = model(job["model"], job["size"], len(book.alphabet), start).to(device)
    network = runs.graphed(network, training[: size.batch * size.length].view(size.batch, -1))
    others = {"weight_decay": 0.1, "beta2": job.get("beta2", 0.999)}
    config = runs.config(job, WARMUP, 15, lower_is_better=True, **others)
    some = validation[: 64 * size.length + 1]
    found = {"parameters": runs.count(network)}
    try:
        history = train(
            network,
            functools.partial(batches, training, size),
            loss,
            config,
            lambda n: bits(n, some, size.length),
        )
    except FloatingPointError as error:  # it diverged: a result, too
        return {**found, "diverged": str(error), "validation": None, "test": None}
    network.eval()
    with torch.no_grad():
        found |= {
            "validation": round(bits(network, validation, size.length), 4),
            "test": round(bits(network, test, size.length), 4),
            "by_position": bits_by_position(network, test, size.long),
            "curve": [[int(s), round(float(m), 4)] for s, m in zip(
                history.eval_step, history.metric, strict=True)],
            "last_loss": round(float(history.loss[-100:].mean()) / math.log(2), 4),
        }  # fmt: skip
    if job["seed"] == 0:
        prompt = book.encode(PROMPT).to(device)[None]
        found["sample"] = book.decode(network.generate(prompt, 200, 0.8, seed=0)[0])
    return found


def speed_of(job: dict) -> dict:
    """Characters a second, in training and in generation for one reader, on a quiet device."""
    runs.without_checks()
    device = runs.device()
    size = SIZES[job["size"]]
    book, (training, _, _) = data(device, job["size"])
    seed_everything(0)
    network = model(job["speed"], job["size"], len(book.alphabet)).to(device)
    stream = batches(training, size, torch.Generator().manual_seed(0))
    network = runs.graphed(network, next(stream)[:, :-1].contiguous())
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    parts = job["repeats"]

    def timed(what: Callable[[], Any]) -> float:
        times = []
        for _ in range(parts + 2):
            begin = time.perf_counter()
            what()
            wait()
            times.append(time.perf_counter() - begin)
        return sorted(times[2:])[parts // 2]

    update = timed(lambda: loss(network, next(stream)).mean().backward())
    token = torch.zeros(1, dtype=torch.int64, device=device)
    held = [network.initial_state(1)]

    @torch.no_grad()
    def ten() -> None:
        for _ in range(10):
            _, held[0] = network.step(token, held[0])

    return {
        "update_s": round(update, 5),
        "training_characters_s": round(size.batch * size.length / update),
        "generation_characters_s": round(10 / timed(ten)),
        **{
            f"flops_{k}": v for k, v in flops(job["speed"], job["size"], len(book.alphabet)).items()
        },
    }


def update_of(job: dict) -> dict:
    """Seconds of a forward and backward pass over pieces of one length, as many characters each."""
    runs.without_checks()
    device = runs.device()
    size = SIZES[job["size"]]._replace(length=job["length"], batch=job["batch"])
    book, (training, _, _) = data(device, job["size"])
    seed_everything(0)
    suits = scan_triton.suits if job["scan"] == "triton" else (lambda *_: False)
    with mock.patch.object(scan_triton, "suits", suits):
        network = model(job["update"], job["size"], len(book.alphabet)).to(device)
        stream = batches(training, size, torch.Generator().manual_seed(0))
        network = runs.graphed(network, next(stream)[:, :-1].contiguous())
        wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
        times = []
        for _ in range(job["repeats"] + 2):
            piece = next(stream)
            wait()
            begin = time.perf_counter()
            loss(network, piece).mean().backward()
            wait()
            times.append(time.perf_counter() - begin)
    return {"update_s": round(sorted(times[2:])[job["repeats"] // 2], 6)}


# --- what needs no gradient ----------------------------------------------------------------------


def n_grams(job: dict) -> dict:
    book, (training, validation, test) = data(torch.device("cpu"), job["size"])
    found = {}
    for part, tokens in (("validation", validation), ("test", test)):
        p = n_gram(training, tokens, len(book.alphabet), ORDERS)
        found[part] = {k: round(float(-v.log2().mean()), 4) for k, v in p.items()}
    return found


def compression(job: dict) -> dict:
    _, (training, _, test) = data(torch.device("cpu"), job["size"])
    return {"test": round(compressed_bits(training, test, job["compressor"]), 4)}


def run(job: dict) -> dict:
    if "speed" in job:
        return speed_of(job)
    if "update" in job:
        return update_of(job)
    if "compressor" in job:
        return compression(job)
    return train_one(job) if "model" in job else n_grams(job)


#: What is run beside the first comparison: model, start, β₂ and rates; the most telling first.
CONTROLS: tuple[tuple[str, str, float, tuple[float, ...]], ...] = (
    ("llama", "customary", 0.95, (3e-3, 1e-2, 3e-2)),
    ("mamba", "library", 0.999, (3e-2, 1e-1)),
    ("s4d", "short", 0.999, (1e-2, 3e-2, 1e-1)),
    ("mamba without selection", "long", 0.999, (1e-2, 3e-2)),
    ("mamba", "library", 0.95, (1e-2, 3e-2, 1e-1)),
    ("llama", "library", 0.95, (3e-3, 1e-2)),
    ("llama", "customary", 0.999, (3e-3, 1e-2)),
    ("mamba without selection", "library", 0.999, (3e-2, 1e-1)),
    ("s4d", "library", 0.999, (1e-1,)),
    ("gru", "library", 0.95, (3e-3, 1e-2)),
)
LENGTHS = (256, 1024, 4096, 16_384)


def controls(options: Any, steps: int) -> None:
    """See above; first the times, with nothing beside them."""
    size = SIZES[options.size]
    same = {"size": options.size}
    fixed = {"n_layer": N_LAYER, **size._asdict(), "warmup": WARMUP, "weight_decay": 0.1}
    run_all = runs.Runner("language_models_controls", run, fixed, options)
    most = 2 * size.batch * size.length
    times = [
        {"update": name, **same, "length": n, "batch": most // n, "scan": scan}
        for name, scans in (
            ("mamba", ("triton", "plain")),
            ("gru", ("triton",)),
            ("llama", ("triton",)),
        )
        for scan in scans
        for n in LENGTHS
        if n <= min(most, 1024 if scan == "plain" else 4096 if name == "llama" else most)
    ]
    if options.repeats:
        run_all([{**one, "repeats": options.repeats} for one in times], 1)
    same["steps"] = steps
    run_all(
        [
            {"model": name, **same, "start": start, "beta2": beta2, "lr": lr, "seed": seed}
            for name, start, beta2, rates in CONTROLS
            for seed in options.seeds
            for lr in rates
        ]
    )


def main() -> None:
    parser = runs.parser(__doc__, SEEDS, SIZES)
    parser.add_argument("--repeats", type=int, default=10, help="of a timing; 0: no timings")
    parser.add_argument("--controls", action="store_true", help="what the comparison left open")
    parser.add_argument("--after", action="store_true", help="the models of later chapters")
    parser.add_argument("--only", nargs="+", choices=[*MODELS, *AFTER])
    parser.add_argument("--rates", type=float, nargs="+", help="further rates, after the sweep")
    options = parser.parse_args()
    options.only = options.only or list(AFTER if options.after else MODELS)
    if options.size != "full" and set(options.only) & set(AFTER):
        parser.error("--size: the models of later chapters have widths for the full size alone")
    size = SIZES[options.size]
    steps = options.steps or size.steps
    same = {"size": options.size}

    def training_jobs(rates_of: Callable[[str], Sequence[float]]) -> list[dict]:
        return [
            {"model": name, **same, "lr": lr, "seed": seed, "steps": steps}
            for seed in options.seeds  # first, so that what is stopped leaves whole sweeps
            for name in options.only
            for lr in rates_of(name)
        ]

    if options.controls:
        return controls(options, steps)

    jobs: list[dict] = []
    if not options.after:
        jobs += [{"baseline": "n-gram", **same}]
        jobs += [{"compressor": name, **same} for name in COMPRESSORS]
    jobs += training_jobs(lambda name: size.rates)

    fixed = {
        "n_layer": N_LAYER,
        **size._asdict(),
        "widths": {name: width_of(name, options.size) for name in options.only},
        "warmup": WARMUP,
        "weight_decay": 0.1,
    }

    record = "language_models_after" if options.after else "language_models"
    run_all = runs.Runner(record, run, fixed, options)
    if options.repeats:  # one after the other, with nothing beside them; then all the rest
        timings = [{"speed": n, **same} for n in options.only]
        if options.after:
            timings += [
                {"update": name, **same, "length": n, "batch": 16_384 // n, "scan": "triton"}
                for name in ("mamba", *options.only)
                for n in LENGTHS
            ]
        run_all([{**one, "repeats": options.repeats} for one in timings], 1)
    by_model = run_all(jobs).by("model")

    def beyond(name: str) -> list[float]:
        best = by_model[name].chosen("validation")[0]["lr"]
        return runs.beyond(best, size.rates, size.more_rates)

    if size.more_rates:
        run_all(training_jobs(beyond))
    if options.rates:
        run_all(training_jobs(lambda name: options.rates))


if __name__ == "__main__":
    main()
