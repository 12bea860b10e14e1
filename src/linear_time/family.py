"""Chapter 21: the table of the family, a row a model.

``recurrences`` has the recurrence, and the functions that the rows name.
"""

from collections.abc import Callable
from typing import NamedTuple

from linear_time.recurrences import (
    Terms,
    delta_net,
    delta_product,
    gated_delta_net,
    gdn2,
    gla,
    kda,
    lightning,
    linear_attention,
    mamba1,
    mamba2,
    mamba3,
    min_gru,
    min_lstm,
    mlstm,
    retnet,
    rg_lru,
    rwkv6,
    rwkv7,
    titans,
    ttt_linear,
)


class Member(NamedTuple):
    """A row of the family's table; its formulas are plain text."""

    name: str
    arxiv: str
    A: str  # what becomes of the state
    write: str  # what is added to it
    note: str
    terms: Callable[..., Terms]


FAMILY: dict[str, Member] = {
    member.terms.__name__: member
    for member in (
        Member(
            "linear attention", "2006.16236", "I", "v kᵀ",
            "φ on q and k; y / zᵀq, or a norm after the read",
            linear_attention,
        ),
        Member(
            "RetNet", "2307.08621", "γ I", "v kᵀ",
            "γ fixed a head; q and k turned by position", retnet,
        ),
        Member(
            "Lightning", "2501.08313", "e^(−s) I", "v kᵀ",
            "s fixed a head, falling with depth; SiLU on q, k, v", lightning,
        ),
        Member(
            "Mamba", "2312.00752", "diag(e^(Δ A))", "Δ x Bᵀ",
            "a head a channel, dv = 1", mamba1,
        ),
        Member(
            "Mamba-2", "2405.21060", "e^(Δ A) I", "Δ x Bᵀ", "plus D x", mamba2,
        ),
        Member(
            "GLA", "2312.06635", "diag(α)", "v kᵀ", "α = σ(·)^(1/16)", gla,
        ),
        Member(
            "RWKV-6", "2404.05892", "diag(w)", "v kᵀ",
            "reads before it writes, with a bonus u", rwkv6,
        ),
        Member(
            "DeltaNet", "2406.06484", "I − β k kᵀ", "β v kᵀ", "‖k‖ = 1",
            delta_net,
        ),
        Member(
            "gated DeltaNet", "2412.06464", "α (I − β k kᵀ)", "β v kᵀ",
            "‖k‖ = 1; α as Mamba-2's", gated_delta_net,
        ),
        Member(
            "KDA", "2510.26692", "diag(α) (I − β k kᵀ)", "β v kᵀ",
            "‖k‖ = 1; a decay a channel", kda,
        ),
        Member(
            "GDN-2", "2605.22791", "diag(α) (I − (b ⊙ k) kᵀ)", "(w ⊙ v) kᵀ",
            "gates of erasing and of writing apart", gdn2,
        ),
        Member(
            "RWKV-7", "2503.14456", "diag(w) − κ (a ⊙ κ)ᵀ", "v kᵀ",
            "erases from the undecayed state; ‖κ‖ = 1", rwkv7,
        ),
        Member(
            "DeltaProduct", "2502.10297", "α ∏ⱼ (I − βⱼ kⱼ kⱼᵀ)",
            "n of β v kᵀ", "n steps of the rule a token", delta_product,
        ),
        Member(
            "Titans, linear", "2501.00663", "(1 − α) I − θ k kᵀ", "θ v kᵀ",
            "and momentum η, which doubles the state", titans,
        ),
        Member(
            "TTT-Linear", "2407.04620", "I − η k kᵀ", "η v kᵀ",
            "gradients of a mini-batch at its start", ttt_linear,
        ),
        Member(
            "RG-LRU", "2402.19427", "a", "√(1 − a²) i x",
            "a vector: dk = dv = 1", rg_lru,
        ),
        Member(
            "minGRU", "2410.01201", "1 − z", "z h̃", "a vector: dk = dv = 1",
            min_gru,
        ),
        Member(
            "minLSTM", "2410.01201", "f / (f + i)", "i h̃ / (f + i)",
            "a vector: dk = dv = 1", min_lstm,
        ),
        Member(
            "mLSTM", "2405.04517", "e^f I", "e^i v kᵀ",
            "y / max(abs(nᵀq), 1); stabilised by m", mlstm,
        ),
        Member(
            "Mamba-3", "2603.15569", "e^(Δ A) I",
            "λ Δ x Bᵀ, and (1 − λ) Δ e^(Δ A) of the one before",
            "B and C turned by Σ Δ θ; rank R", mamba3,
        ),
    )
}  # fmt: skip
