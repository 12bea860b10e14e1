"""Chapter 16: small tasks that ask what a sequence model can keep.

Every generator returns ``(tokens, targets)``, both int64 and of one shape,
(batch, length): the input, and at each position the token to answer there, or
``NO_ANSWER`` where nothing is asked. All randomness comes from the generator
that the caller seeds.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate
from linear_time.mixer import LanguageModel

NO_ANSWER = -100  # torch's own mark of a position that does not count

Tokens = Int[Tensor, "batch length"]


def selective_copying(
    batch_size: int,
    length: int,
    n_tokens: int,
    vocab_size: int = 16,
    *,
    generator: torch.Generator,
) -> tuple[Tokens, Tokens]:
    """Copy the data tokens in order, and leave out the noise between them.

    The first ``length`` positions hold ``n_tokens`` data tokens, at random
    places and in random order of values, and noise everywhere else; then
    n_tokens markers ask for them, first to last:

        · 3 · · 7 · 2 · | | |   →   3 7 2 at the markers.

    Token 0 is noise, vocab_size − 1 the marker, 1 … vocab_size − 2 are data.

    Args:
        batch_size: number of sequences.
        length: positions before the markers, ≥ n_tokens.
        n_tokens: data tokens to be copied, ≥ 1.
        vocab_size: number of tokens in all, ≥ 3.
        generator: of everything random.

    Returns:
        (tokens, targets), each (batch, length + n_tokens).

    Raises:
        TypeError, ValueError: a size is not as above, or the generator is
            none.

    Source: Gu & Dao (2023), "Mamba", sections 3.1 and 4.1.1. The S4
        repository's variable copying task has length − n_tokens for its L.
    """
    batch_size = _sizes(batch_size, generator)
    n_tokens = _validate.count("n_tokens", n_tokens)
    length = _at_least("length", length, n_tokens, "n_tokens")
    vocab_size = _at_least("vocab_size", vocab_size, 3)
    device = generator.device
    data = torch.randint(
        1,
        vocab_size - 1,
        (batch_size, n_tokens),
        generator=generator,
        device=device,
    )
    places = _subset(batch_size, length, n_tokens, generator).sort(1).values
    tokens = torch.zeros(
        batch_size, length + n_tokens, dtype=torch.int64, device=device
    )
    tokens[:, :length].scatter_(1, places, data)
    tokens[:, length:] = vocab_size - 1
    targets = torch.full_like(tokens, NO_ANSWER)
    targets[:, length:] = data
    return tokens, targets


def induction_heads(
    batch_size: int,
    length: int,
    vocab_size: int = 16,
    *,
    generator: torch.Generator,
) -> tuple[Tokens, Tokens]:
    """Say what followed the trigger the first time, when it comes again.

    A random sequence in which the trigger, token vocab_size − 1, stands at
    one random place, with a random token after it, and at the very end:

        4 1 T 6 2 2 0 … 3 T   →   6 at the end.

    Args:
        batch_size: number of sequences.
        length: of a sequence with its last trigger, ≥ 3.
        vocab_size: number of tokens in all, ≥ 2.
        generator: of everything random.

    Returns:
        (tokens, targets), each (batch, length); one answer a sequence.

    Raises:
        TypeError, ValueError: a size is not as above, or the generator is
            none.

    Source: Gu & Dao (2023), "Mamba", section 4.1.2.
    """
    batch_size = _sizes(batch_size, generator)
    length = _at_least("length", length, 3)
    vocab_size = _at_least("vocab_size", vocab_size, 2)
    device, trigger = generator.device, vocab_size - 1
    tokens = torch.randint(
        0, trigger, (batch_size, length), generator=generator, device=device
    )
    place = torch.randint(
        0, length - 2, (batch_size, 1), generator=generator, device=device
    )
    tokens.scatter_(1, place, trigger)
    tokens[:, -1] = trigger
    targets = torch.full_like(tokens, NO_ANSWER)
    targets[:, -1:] = tokens.gather(1, place + 1)
    return tokens, targets


def associative_recall(
    batch_size: int,
    length: int,
    n_pairs: int,
    vocab_size: int = 8192,
    power: float | int = 0.01,
    random_filler: bool = True,
    *,
    generator: torch.Generator,
) -> tuple[Tokens, Tokens]:
    """Multi-query associative recall (MQAR): keys, values, then the keys.

    n_pairs pairs of a key and its value stand first. Later each key comes
    once more, at a random even place, and its value is the answer there:

        k₁ v₁ k₂ v₂ · · k₂ · · · k₁ ·   →   v₂ and v₁ at the second keys.

    Keys are distinct tokens of 1 … vocab_size/2 − 1, values distinct tokens
    of vocab_size/2 … vocab_size − 1. Of the places for a query, the g-th
    after the pairs (g = 1, 2, …) has weight g^(power − 1): a small power asks
    early, 1 asks anywhere.

    Args:
        batch_size: number of sequences.
        length: of a sequence, even, ≥ 4 n_pairs.
        n_pairs: pairs of a key and a value, ≥ 1.
        vocab_size: number of tokens in all, even, ≥ 2 n_pairs + 2.
        power: of the power law of the queries' places, > 0.
        random_filler: the positions after the pairs that are no query hold
            random tokens; else token 0.
        generator: of everything random.

    Returns:
        (tokens, targets), each (batch, length); n_pairs answers a sequence.

    Raises:
        TypeError, ValueError: a size is not as above, or the generator is
            none.

    Source: Arora et al. (2023), "Zoology: Measuring and Improving Recall in
        Efficient Language Models", and its released code, whose random
        tokens may repeat a key, as these may.
    """
    batch_size = _sizes(batch_size, generator)
    n_pairs = _validate.count("n_pairs", n_pairs)
    length = _at_least("length", length, 4 * n_pairs, "4 n_pairs")
    vocab_size = _at_least(
        "vocab_size", vocab_size, 2 * n_pairs + 2, "2 n_pairs + 2"
    )
    for name, value in (("length", length), ("vocab_size", vocab_size)):
        if value % 2:
            raise ValueError(f"{name}: expected an even number, got {value}")
    _validate.number("power", power)
    device, half = generator.device, vocab_size // 2
    keys = 1 + _subset(batch_size, half - 1, n_pairs, generator)
    values = half + _subset(batch_size, half, n_pairs, generator)
    tokens = torch.zeros(batch_size, length, dtype=torch.int64, device=device)
    if random_filler:
        tokens.random_(0, vocab_size, generator=generator)
    tokens[:, : 2 * n_pairs : 2] = keys
    tokens[:, 1 : 2 * n_pairs : 2] = values
    gap = torch.arange(
        1, (length - 2 * n_pairs) // 2 + 1, device=device, dtype=finest(device)
    )
    weight = (gap ** (power - 1)).expand(batch_size, -1)
    chosen = torch.multinomial(weight, n_pairs, generator=generator)
    places = 2 * n_pairs + 2 * chosen
    tokens.scatter_(1, places, keys)
    targets = torch.full_like(tokens, NO_ANSWER)
    targets.scatter_(1, places, values)
    return tokens, targets


def answer_loss(
    model: nn.Module, batch: tuple[Tokens, Tokens]
) -> Float[Tensor, " answers"]:
    """Cross-entropy of every answer of a batch, for ``training.train``.

    Args:
        model: from tokens (batch, length) to logits (batch, length, vocab).
        batch: what a generator of this module returns.
    """
    tokens, targets = batch
    asked = targets != NO_ANSWER
    return functional.cross_entropy(
        model(tokens)[asked], targets[asked], reduction="none"
    )


@torch.no_grad()
def accuracy(
    model: nn.Module, batch: tuple[Tokens, Tokens]
) -> tuple[float, float]:
    """The shares of right answers, and of sequences without a wrong one.

    Args:
        model, batch: as for ``answer_loss``.

    Returns:
        (accuracy a token, accuracy a sequence).

    Raises:
        ValueError: nothing is asked.
    """
    tokens, targets = batch
    asked = targets != NO_ANSWER
    n_asked = int(asked.sum())
    if n_asked == 0:
        raise ValueError("batch: expected a target to answer, got none")
    right = model(tokens).argmax(-1) == targets
    whole = (right | ~asked).all(1)
    return int(right[asked].sum()) / n_asked, int(whole.sum()) / len(whole)


def read_in_pieces(
    model: LanguageModel, tokens: Tokens, piece: int
) -> Float[Tensor, "batch rows"]:
    """The logits after the last token, of a sequence read piece by piece.

    The state is handed from each piece to the next: equal to one reading, in
    the memory of a piece.

    Args:
        model: that is asked; its ``prefill`` reads.
        tokens: (batch, length).
        piece: tokens that are read at once, at most, ≥ 1.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    piece = _validate.count("piece", piece)
    state = None
    for part in tokens.split(piece, dim=1):
        logits, state = model.prefill(part, state)
    return logits


def finest(device: torch.device) -> torch.dtype:
    """The most exact numbers of a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _subset(
    batch_size: int, n: int, size: int, generator: torch.Generator
) -> Tensor:
    """In each row, ``size`` distinct numbers of 0 … n − 1, in random order."""
    noise = torch.rand(
        batch_size, n, generator=generator, device=generator.device
    )
    return noise.topk(size, largest=False).indices


def _sizes(batch_size: int, generator: torch.Generator) -> int:
    batch_size = _validate.count("batch_size", batch_size)
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            "generator: expected a torch.Generator, "
            f"got {_validate.describe(generator)}"
        )
    return batch_size


def _at_least(name: str, value: int, least: int, word: str = "") -> int:
    value = _validate.count(name, value)
    if value < least:
        wanted = f"{word} = {least}" if word else str(least)
        raise ValueError(f"{name}: expected at least {wanted}, got {value}")
    return value
