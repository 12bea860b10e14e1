"""Chapter 22: what a state of fixed size can follow, and what it can hold.

Following is a matter of the matrices that a state is multiplied by: strength
2 of a delta rule reflects, and reflections reach every permutation. Holding
is a matter of its size: of bits, for any reader, and of columns, for a linear
one.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linear_time import _validate
from linear_time.recurrences import Terms, delta_product, recurrence

Permutations = Int[Tensor, "batch length n"]


def swaps(permutation: Sequence[int]) -> list[tuple[int, int]]:
    """Exchanges of two places, in order, that make up a permutation.

    After them place i holds what was at place permutation[i] before. Of n
    places with c cycles, fixed places included, they are n − c, and no fewer
    would do: an exchange changes the number of cycles by one.

    Args:
        permutation: 0, …, n − 1 in some order.

    Returns:
        The pairs, at most n − 1.

    Raises:
        ValueError: it is not a permutation.
    """
    wanted = [int(place) for place in permutation]
    if not wanted or sorted(wanted) != list(range(len(wanted))):
        raise ValueError(
            "permutation: expected 0, …, n − 1 in some order, got "
            f"{_validate.describe(permutation)}"
        )
    now, found = list(range(len(wanted))), []
    for i, source in enumerate(wanted):
        j = now.index(source)
        if i != j:
            found.append((i, j))
            now[i], now[j] = now[j], now[i]
    return found


def reflections(
    permutations: Permutations,
) -> tuple[
    Float[Tensor, "batch length writes n"], Float[Tensor, "batch length writes"]
]:
    """Each permutation as n − 1 reflections: their keys, and 1 or 0 for each.

    An exchange of places i and j is I − 2 k kᵀ with k = (e_i − e_j)/√2. A
    permutation of fewer exchanges has zeros at its end, where the key is 0.

    Args:
        permutations: for every token, (batch, length, n), n ≥ 2.

    Returns:
        Keys (batch, length, n − 1, n), of length 1 where a reflection is
        made, and 1 or 0 for whether it is, (batch, length, n − 1), float64.

    Raises:
        TypeError: not whole numbers.
        ValueError: not permutations of two places or more.

    Source: Siems et al. (2025), "DeltaProduct", arXiv 2502.10297.
    """
    batch, length, n = _permutations(permutations)
    side = math.sqrt(0.5)
    # each once, however often it comes
    distinct, which = permutations.reshape(-1, n).unique(
        dim=0, return_inverse=True
    )
    keys = torch.zeros(len(distinct), n - 1, n, dtype=torch.float64)
    made = torch.zeros(len(distinct), n - 1, dtype=torch.float64)
    for row, one in enumerate(distinct.tolist()):
        for w, (i, j) in enumerate(swaps(one)):
            keys[row, w, i], keys[row, w, j] = side, -side
            made[row, w] = 1
    keys, made = keys.to(which.device)[which], made.to(which.device)[which]
    return keys.view(batch, length, n - 1, n), made.view(batch, length, n - 1)


def follower(
    permutations: Permutations,
    places: Int[Tensor, "batch length"],
    strength: float | int = 2.0,
) -> Terms:
    """A delta rule of n − 1 writes a token that follows the permutations.

    Its state is one row of n numbers: what lies at each place. Nothing is
    written, v = 0: the state begins as it is to be followed, and y_t is the
    number at the place that is asked for.

    Args:
        permutations: (batch, length, n); at token t place i receives what lay
            at place permutations[…, t, i].
        places: which place is read after each token, (batch, length).
        strength: β of every exchange. At 2 it exchanges two numbers; below
            that it also moves both towards their mean.

    Returns:
        Terms for ``recurrence(terms, initial_state=…)``, one head, dv = 1,
        dk = n.

    Raises: as ``reflections``; ValueError: a place that is none.
    """
    _, _, n = _permutations(permutations)
    _validate.number("strength", strength, or_equal=True)
    _validate.tokens("places", places, tuple(permutations.shape[:2]), n)
    k, made = (x[:, :, None] for x in reflections(permutations))
    q = torch.nn.functional.one_hot(places.long(), n).to(k)[:, :, None]
    v = k.new_zeros(*k.shape[:-1], 1)
    return delta_product(q, k, v, strength * made)


def arrangements(permutations: Permutations) -> Permutations:
    """What lies at each place after each token, from 0, …, n − 1 at first.

    Args:
        permutations: (batch, length, n), as ``follower`` takes them.

    Returns:
        (batch, length, n): the labels, by place.

    Raises: as ``reflections``.
    """
    batch, _, n = _permutations(permutations)
    now = torch.arange(n, device=permutations.device).expand(batch, n)
    rows = []
    for permutation in permutations.long().unbind(1):
        now = now.gather(1, permutation)
        rows.append(now)
    return torch.stack(rows, dim=1)


# --- what a state can hold ----------------------------------------------------


def told_bits(share: float | int, kinds: int) -> float:
    """What an answer tells of a value that it has right with this chance.

    log₂V − H(p) − (1 − p) log₂(V − 1) bits, 0 for a guess, p = 1/V.

    Args:
        share: p, from 1/V to 1.
        kinds: V ≥ 2, equally likely.

    Raises:
        TypeError, ValueError: a number outside of its range.

    Source: Fano's inequality; equation 16-fano of chapter 16.
    """
    _kinds(kinds)
    _validate.number("share", share)
    if not 1 / kinds - 1e-12 <= share <= 1:
        raise ValueError(
            f"share: expected a number from 1/{kinds} to 1, got {share}"
        )
    entropy = -sum(x * math.log2(x) for x in (share, 1 - share) if x > 0)
    return math.log2(kinds) - entropy - (1 - share) * math.log2(kinds - 1)


def best_share(bits: float | int, pairs: int, kinds: int) -> float:
    """The largest share of right answers that a state of so many bits allows.

    The p at which n · told_bits(p, V) is the number of bits: no memory of n
    values, whatever its rule, has a larger mean share.

    Args:
        bits: of the state, ≥ 0.
        pairs: n, how many values may be asked for.
        kinds: V, values drawn freely from so many.

    Raises:
        TypeError, ValueError: a number outside of its range.
    """
    _validate.number("bits", bits, or_equal=True)
    n = _validate.count("pairs", pairs)
    _kinds(kinds)
    if n * math.log2(kinds) <= bits:
        return 1.0
    low, high = 1 / kinds, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if n * told_bits(middle, kinds) <= bits:
            low = middle
        else:
            high = middle
    return low


def recall(
    model: Callable[[Tensor, Tensor, Tensor], Terms],
    keys: Float[Tensor, "batch n dk"],
    values: Float[Tensor, "batch writes dv"],
) -> Float[Tensor, "batch n dv"]:
    """Write values at keys in order, then read at every key.

    Args:
        model: a rule, such as ``linear_attention``: (q, k, v) to terms.
        keys: n of them, used again from the first when values are left.
        values: one for each write; a multiple of n.

    Returns:
        What the last state has at each key.

    Raises:
        TypeError, ValueError: a shape or type that does not fit.
    """
    batch, n, _ = _validate.layout("keys", keys, "batch", "n", "dk")
    _, writes, _ = _validate.layout("values", values, batch, "writes", "dv")
    if writes % n:
        raise ValueError(
            f"values: expected a multiple of {n} writes, got {writes}"
        )
    k = keys.repeat(1, writes // n, 1)[:, :, None]
    _, S = recurrence(model(k, k, values[:, :, None]), True)
    return keys @ S[:, 0].mT


def _permutations(value: Tensor) -> tuple[int, int, int]:
    batch, length, n = _validate.layout(
        "permutations", value, "batch", "length", "n", kind="whole"
    )
    order = torch.arange(n, device=value.device)
    if n < 2 or not bool((value.sort(dim=-1).values == order).all()):
        raise ValueError(
            "permutations: expected 0, …, n − 1 in some order, n ≥ 2, for "
            f"every token, got {_validate.describe(value)}"
        )
    return batch, length, n


def _kinds(kinds: int) -> None:
    if _validate.count("kinds", kinds) < 2:
        raise ValueError(f"kinds: expected a whole number ≥ 2, got {kinds}")
