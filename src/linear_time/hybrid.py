"""Chapter 22: a language model whose layers are of several kinds, by a pattern.

Most layers keep a state of a fixed size, and a few attend: what is asked for
word by word is found in their caches. The pattern says which layer is which.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linear_time import _validate, records
from linear_time.cache import KVCache
from linear_time.decoder import GroupedQueryAttention, SwiGLU
from linear_time.delta import GatedDeltaNet
from linear_time.mamba import Mamba
from linear_time.mamba2 import Mamba2
from linear_time.mixer import LanguageModel, Residual, SequenceMixer, State


class FeedForward(SequenceMixer):
    """The gated MLP in the place of a mixer: it mixes and remembers nothing.

    Args:
        d_model: width of input and output.
        d_ff: width inside.

    Raises:
        TypeError, ValueError: a width is not a whole number ≥ 1.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__(d_model)
        self.mlp = SwiGLU(d_model, d_ff)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[()]:
        """Nothing."""
        _validate.count("batch_size", batch_size)
        return ()

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State
    ) -> tuple[Float[Tensor, "batch d_model"], State]:
        self.check_input(x_t, "x_t")
        return self.mlp(x_t), state

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        """All positions at once; padding is no other than what it is given."""
        self.check_input(x)
        self.check_mask(mask, x)
        return self.mlp(x), () if state is None else state


class Letter(NamedTuple):
    """What a letter of a pattern stands for."""

    layer: type[SequenceMixer]
    last: str  # its last map, which adds to the residual


#: The letters of a pattern.
LETTERS = {
    "m": Letter(Mamba2, "out_proj"),
    "M": Letter(Mamba, "out_proj"),
    "d": Letter(GatedDeltaNet, "out_proj"),
    "a": Letter(GroupedQueryAttention, "out"),
    "f": Letter(FeedForward, "mlp.down"),
}


class Held(NamedTuple):
    """How much a model holds after a sequence; ``sum`` of it is all."""

    recurrent: int  # the same at every length
    cache: int  # keys and values: grows with the length


class HybridLM(LanguageModel):
    """A language model of layers by a pattern, in the frame of chapter 15.

    Each letter is one block, x + layer(norm(x)):

        m  Mamba-2             a  attention with rotary positions
        M  Mamba               f  a gated MLP, which has no state
        d  gated DeltaNet

    ``HybridLM("m" * n, …)`` is ``Mamba2LM``, and ``"af" * n`` is
    ``LlamaLM``, weight for weight. As in ``MambaLM``, the last map of every
    block starts 1/√(number of blocks) as large.

    Args:
        pattern: of the letters above, such as "mmma" * 2; spaces are no
            letters.
        vocab_size: number of tokens.
        d_model: width of the blocks.
        tied: whether the embedding is the head as well.
        eps: of the norms of the blocks and of the last one.
        settings: of the layers, a dict for each letter: what its layer takes
            beside ``d_model``, such as ``a={"n_heads": 4, "n_kv_heads": 2}``.

    Raises:
        TypeError, ValueError: an argument or a setting is not as above.

    Source: Lieber et al. (2024), "Jamba", section 2, for layers of two kinds
        and an MLP after each; Waleffe et al. (2024), "An Empirical Study of
        Mamba-based Language Models", section 4, for Mamba-2 and MLPs as
        blocks of their own.
    """

    def __init__(
        self,
        pattern: str,
        vocab_size: int,
        d_model: int,
        tied: bool = True,
        eps: float | int = 1e-5,
        **settings: dict[str, Any],
    ) -> None:
        letters = _letters("pattern", pattern)
        for letter, own in settings.items():
            if letter not in letters:
                raise ValueError(
                    f"{letter}: expected settings of letters in the pattern "
                    f"{letters!r}, got {own!r}"
                )
        for letter in dict.fromkeys(letters):
            _check_settings(letter, settings.get(letter, {}))
        made: Iterator[str] = iter(letters)

        def block() -> Residual:
            letter = next(made)
            layer = LETTERS[letter].layer(d_model, **settings.get(letter, {}))
            return Residual(layer, nn.RMSNorm(d_model, eps=float(eps)))

        n = len(letters)
        super().__init__(block, vocab_size, d_model, n, tied, eps)
        self.pattern = letters
        for letter, one in zip(letters, self.blocks, strict=True):
            last = one.mixer.get_submodule(LETTERS[letter].last)
            last.weight.data /= n**0.5

    def state_numbers(self, length: int) -> Held:
        """The numbers that one sequence's state has after so many tokens.

        Args:
            length: tokens read, ≥ 1.

        Raises:
            TypeError, ValueError: the length is not as above.
        """
        return self._held(length, lambda part: part.numel())

    def state_bytes(self, length: int) -> Held:
        """The same in bytes, each number in the dtype that it is kept in.

        A cache has the model's; a recurrent state is at least float32.
        """
        return self._held(length, lambda part: part.nbytes)

    def _held(self, length: int, size: Any) -> Held:
        length = _validate.count("length", length)
        recurrent = cache = 0
        for state in self.initial_state(1):
            if isinstance(state, KVCache):  # of one position, then of all
                one = (part.new_empty(1, part.shape[1], 1, part.shape[3])
                       for part in (state.k, state.v))  # fmt: skip
                cache += length * sum(map(size, one))
            else:
                recurrent += sum(map(size, state))
        return Held(recurrent, cache)


def ratio(
    n_layer: int,
    one_in: int,
    offset: int | None = None,
    rest: str = "m",
    after: str = "",
) -> str:
    """The pattern of n_layer layers of which one in so many attends.

    Layer i is "a" where i mod one_in = offset, and else ``rest``. Jamba's is
    ``ratio(32, 8, offset=4, rest="M", after="f")``, Qwen3-Next's
    ``ratio(48, 4, rest="d", after="f")``.

    Args:
        n_layer: number of layers; of ``after`` there are as many.
        one_in: the period; 1: every layer attends.
        offset: the place in the period; its last, one_in − 1, if None.
        rest: the letter of the other layers.
        after: letters behind each layer, "f" for an MLP.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    n_layer = _validate.count("n_layer", n_layer)
    one_in = _validate.count("one_in", one_in)
    offset = one_in - 1 if offset is None else offset
    whole = isinstance(offset, int) and not isinstance(offset, bool)
    if not whole or not 0 <= offset < one_in:
        raise ValueError(
            f"offset: expected a whole number from 0 to {one_in - 1}, "
            f"got {offset!r}"
        )
    rest = _letters("rest", rest)
    if after:
        after = _letters("after", after)
    return "".join(
        ("a" if i % one_in == offset else rest) + after for i in range(n_layer)
    )


class Trial(NamedTuple):
    """A model of ``experiments/hybrids.py``, at the rate it was chosen at."""

    model: str  # its name there
    attend: int  # layers that attend, of eight
    parameters: int
    lr: float  # chosen on validation; ``swept`` are the rates it is one of
    swept: tuple[float, ...]
    tests: tuple[float, ...]  # one a seed: bits a character, or right answers
    state: dict[int, Held]  # bytes in float32, by length

    @property
    def inside(self) -> bool:
        """Whether lower and higher rates were tried, and were worse."""
        return min(self.swept) < self.lr < max(self.swept)


def trials(task: str, folder: Path | None = None) -> list[Trial]:
    """The recorded comparison, a row a model, in the order of attention.

    Every best rate is inside its sweep.

    Args:
        task: "text" or "recall".
        folder: where the record is; with the package if None.

    Raises:
        TypeError: folder is not a path.
        ValueError: there is no such task in the record.
    """
    record = records.read("hybrids", folder)
    made = []
    for model, rows in record.where(task=task).by("model").items():
        best = rows.chosen("validation")
        state = {int(n): Held(*held) for n, held in best[0]["state"].items()}
        trial = Trial(
            model,
            record.settings["patterns"][model].count("a"),
            best[0]["parameters"],
            best[0]["lr"],
            tuple(sorted(rows.by("lr"))),
            tuple(best.values("test")),
            state,
        )
        made.append(trial)
    return sorted(made, key=lambda one: (one.attend, one.model))


def _letters(name: str, pattern: str) -> str:
    """The letters of a pattern, without its spaces."""
    if not isinstance(pattern, str):
        raise TypeError(f"{name}: expected text, got {pattern!r}")
    letters = "".join(pattern.split())
    if not letters or set(letters) - set(LETTERS):
        raise ValueError(
            f"{name}: expected letters among {', '.join(LETTERS)}, "
            f"got {pattern!r}"
        )
    return letters


def _check_settings(letter: str, own: dict[str, Any]) -> None:
    """Refuse settings that the letter's layer does not take, or lacks."""
    layer = LETTERS[letter].layer
    if not isinstance(own, dict):
        raise TypeError(f"{letter}: expected a dict of settings, got {own!r}")
    try:
        inspect.signature(layer).bind(1, **own)
    except TypeError as error:
        raise ValueError(
            f"{letter}: expected the settings of {layer.__name__}, "
            f"got {own!r} ({error})"
        ) from None
