"""Chapter 05: one matrix that turns n tokens into m, and its relatives.

A compressor maps (batch, n_in, d_in) to (batch, n_out, d_out) with a number
of outputs that does not depend on the input. Here the tokens are mixed by a
constant matrix, y = W x with W (n_out, n_in): learned, a mean, or of low
rank. It never touches the channels, so it commutes with every channel map,
(W x) V = W (x V).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate
from linear_time.attention import attention
from linear_time.layer import full


class Compressor(nn.Module):
    """A layer (batch, n_in, d_in) → (batch, n_out, d_out).

    A subclass defines ``forward`` and begins it with ``check_input``.

    Args:
        n_out: number of tokens that come out.
        n_in: number of tokens that go in; None: any.
        d_in: width of the tokens that go in; None: any.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1.
    """

    def __init__(
        self, n_out: int, n_in: int | None = None, d_in: int | None = None
    ) -> None:
        super().__init__()
        self.n_out = _validate.count("n_out", n_out)
        self.n_in = None if n_in is None else _validate.count("n_in", n_in)
        self.d_in = None if d_in is None else _validate.count("d_in", d_in)

    def forward(
        self, x: Float[Tensor, "batch n_in d_in"]
    ) -> Float[Tensor, "batch n_out d_out"]:
        """The n_out tokens of each row of the batch."""
        raise NotImplementedError

    def check_input(self, x: Tensor) -> None:
        """Refuse an input that is not (batch, n_in, d_in).

        Raises:
            TypeError: not a floating-point tensor.
            ValueError: another shape, or a value that is not finite.
        """
        _validate.layout(
            "x", x, "batch", self.n_in or "n_in", self.d_in or "d_in"
        )


class LinearCompression(Compressor):
    """Linear Compression Embedding (LCE): y = W x, W (n_out, n_in).

    Each output token is a learned sum of all input tokens. Three forms of
    the same product: ``forward``, ``as_linear`` and ``as_convolution``.

    W starts as N(0, 1/n_in): independent inputs of variance 1 give outputs
    of variance 1. A full W reads the future, so it cannot be causal; and a
    fixed n_in refuses every other length.

    Args:
        n_in: number of input tokens.
        n_out: number of output tokens.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1.

    Source: Zhang et al. (2024), "Wukong", whose linear compress block (LCB)
        it is; Zhang et al. (2022), "DHEN", has it as its linear module.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        n_in = _validate.count("n_in", n_in)
        super().__init__(n_out, n_in)
        self.weight = nn.Parameter(torch.randn(self.n_out, n_in) * n_in**-0.5)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        """The product W x."""
        self.check_input(x)
        return self.weight @ x

    def as_linear(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        """The same as a linear layer on the transpose: (xᵀ Wᵀ)ᵀ."""
        self.check_input(x)
        return functional.linear(x.mT, self.weight).mT

    def as_convolution(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        """The same as a 1×1 convolution that takes the tokens for channels.

        The convolution slides along d with one tap: at every channel it
        applies W to the n_in tokens.
        """
        self.check_input(x)
        return functional.conv1d(x, self.weight[:, :, None])

    def split(self, *sizes: int) -> tuple[Tensor, ...]:
        """W in blocks of columns: W x = Σ_i W_i x_i for x = [x_1; x_2; …].

        Args:
            sizes: number of tokens of each block; together n_in.

        Returns:
            Matrices (n_out, size), views of W.

        Raises:
            ValueError: the sizes do not add up to n_in.
        """
        blocks = [_validate.count("sizes", size) for size in sizes]
        if sum(blocks) != self.n_in:
            raise ValueError(
                f"sizes: expected blocks of together {self.n_in} tokens, "
                f"got {_validate.shape_text(blocks)}"
            )
        return self.weight.split(blocks, dim=1)

    def for_candidates(
        self,
        user: Float[Tensor, "batch n_user d"],
        candidates: Float[Tensor, "batch n_candidates n_candidate d"],
    ) -> Float[Tensor, "batch n_candidates n_out d"]:
        """Compress [user; candidate] for many candidates of each user.

        y_c = W_u x_user + W_c x_c: the user's half is computed once a user,
        not once a candidate.

        Args:
            user: the user's tokens, (batch, n_user, d).
            candidates: each candidate's tokens,
                (batch, n_candidates, n_candidate, d);
                n_user + n_candidate = n_in.

        Returns:
            (batch, n_candidates, n_out, d), as ``forward`` would give for
            each user and candidate.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        batch, n_user, d = _validate.layout(
            "user", user, "batch", "n_user", "d"
        )
        _, _, n_candidate, _ = _validate.layout(
            "candidates", candidates, batch, "n_candidates", "n_candidate", d
        )
        if n_user + n_candidate != self.n_in:
            raise ValueError(
                f"user, candidates: expected together {self.n_in} tokens, "
                f"got {n_user} and {n_candidate}"
            )
        of_user, of_candidate = self.split(n_user, n_candidate)
        # (batch, 1, n_out, d) + (batch, n_candidates, n_out, d)
        return (of_user @ user)[:, None] + of_candidate @ candidates


class MeanPooling(Compressor):
    """Neighbours averaged: n_out windows that together cover all tokens.

    Output i is the mean of the tokens ⌊i n_in/n_out⌋ … ⌈(i+1) n_in/n_out⌉ − 1:
    W with nothing to learn. Where n_out does not divide n_in, neighbouring
    windows share a token.

    Args:
        n_in: number of input tokens.
        n_out: number of output tokens, ≤ n_in.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1, or
            n_out > n_in.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        n_in = _validate.count("n_in", n_in)
        super().__init__(n_out, n_in)
        if self.n_out > n_in:
            raise ValueError(f"n_out: expected at most {n_in}, got {n_out}")

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        """The mean of each window."""
        self.check_input(x)
        return functional.adaptive_avg_pool1d(x.mT, self.n_out).mT


class LowRank(Compressor):
    """LCE in two thinner steps: W = L R, L (n_out, rank), R (rank, n_in).

    rank · (n_in + n_out) weights, and as many products a channel, in the
    place of n_in · n_out. R starts as N(0, 1/n_in), L as N(0, 1/rank).

    Args:
        n_in: number of input tokens.
        n_out: number of output tokens.
        rank: 1 ≤ rank ≤ min(n_in, n_out).

    Raises:
        TypeError, ValueError: a size is not as above.
    """

    def __init__(self, n_in: int, n_out: int, rank: int) -> None:
        n_in = _validate.count("n_in", n_in)
        super().__init__(n_out, n_in)
        rank = _validate.count("rank", rank)
        most = min(n_in, self.n_out)
        if rank > most:
            raise ValueError(f"rank: expected at most {most}, got {rank}")
        self.right = nn.Parameter(torch.randn(rank, n_in) * n_in**-0.5)
        self.left = nn.Parameter(torch.randn(self.n_out, rank) * rank**-0.5)

    def forward(
        self, x: Float[Tensor, "batch n_in d"]
    ) -> Float[Tensor, "batch n_out d"]:
        """L (R x), in this order: the product L R is never formed."""
        self.check_input(x)
        return self.left @ (self.right @ x)


def matrix(compressor: Compressor) -> Float[Tensor, "n_out n_in"]:
    """The W of a compressor that is linear along the tokens: W I = W.

    Args:
        compressor: with a fixed n_in and any width, as all of this chapter.

    Raises:
        ValueError: it takes any n_in, or one width only.
    """
    if compressor.n_in is None or compressor.d_in is not None:
        raise ValueError(
            "compressor: expected one with a fixed n_in and any width, got "
            f"{type(compressor).__name__} with n_in {compressor.n_in} and "
            f"d_in {compressor.d_in}"
        )
    like = next(compressor.parameters(), torch.empty(0))
    eye = torch.eye(compressor.n_in, dtype=like.dtype, device=like.device)
    out: Tensor = compressor(eye[None])[0]
    return out


class OptimalCompression(NamedTuple):
    """The best linear encoder and decoder of some data."""

    encoder: Tensor  # W, (m, n)
    decoder: Tensor  # (n, m)
    error: Tensor  # ‖X − decoder encoder X‖², scalar
    singular_values: Tensor  # of X, largest first


def optimal_compression(
    X: Float[Tensor, "*batch n d"], m: int
) -> OptimalCompression:
    """The m numbers a column that reconstruct X best, linearly.

    With X = U Σ Vᵀ and U_m the first m columns of U,

        encoder = U_mᵀ,  decoder = U_m,  error = Σ_{i>m} σ_i²,

    the least ‖X − decoder encoder X‖² (Frobenius) of any pair of matrices of
    these shapes. The pair is one of many: (S U_mᵀ, U_m S⁻¹) does as well, for
    every invertible S. Nothing is centred: it is the principal components of
    the tokens only where every token has mean 0.

    Args:
        X: (…, n, d); the columns of a batch are all put side by side: one
            encoder for the whole batch.
        m: number of tokens to keep, 1 ≤ m ≤ n.

    Returns:
        OptimalCompression; the largest entry (in magnitude) of each row of
        the encoder is positive, since the sign of u_i is free.

    Raises:
        TypeError, ValueError: X or m is not as above.

    Source: Eckart & Young (1936), "The approximation of one matrix by
        another of lower rank".
    """
    m = _validate.count("m", m)
    n = _validate.layout("X", X, "…", "n", "d")[-2]
    if m > n:
        raise ValueError(f"m: expected at most n = {n}, got {m}")
    columns = full(X).movedim(-2, 0).reshape(n, -1)  # (n, batch · d)
    # With fewer columns than m the thin U is too narrow.
    thin = columns.shape[1] >= m
    U, sigma, _ = torch.linalg.svd(columns, full_matrices=not thin)
    U_m = U[:, :m]
    largest = U_m.gather(0, U_m.abs().argmax(0, keepdim=True))  # (1, m)
    U_m = U_m * largest.sign()
    best = OptimalCompression(U_m.mT, U_m, sigma[m:].square().sum(), sigma)
    return OptimalCompression(*(part.to(X.dtype) for part in best))


def share_kept(
    X: Float[Tensor, "*batch n d"],
    encoder: Float[Tensor, "m n"],
    decoder: Float[Tensor, "n m"],
) -> float:
    """How much of X a pair keeps: 1 − ‖X − decoder encoder X‖² / ‖X‖².

    1 is all, 0 nothing; a decoder fitted to other data may do worse than
    nothing.

    Args:
        X: (…, n, d), not all zero.
        encoder: W, (m, n).
        decoder: R, (n, m).

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    n = _validate.layout("X", X, "…", "n", "d")[-2]
    m, _ = _validate.layout("encoder", encoder, "m", n)
    _validate.layout("decoder", decoder, n, m)
    _validate.same_precision(X=X, encoder=encoder, decoder=decoder)
    whole = X.square().sum()
    if whole == 0:
        raise ValueError("X: expected an entry other than 0, got none")
    rest = X - decoder @ (encoder @ X)
    return float(1 - rest.square().sum() / whole)


def cosines(n: int, m: int) -> Float[Tensor, "m n"]:
    """The m slowest of n orthonormal cosines: an encoder without data.

        W_{ij} = c_i cos(π i (j + ½) / n),  c_0 = √(1/n),  else √(2/n),

    the first rows of the discrete cosine transform (DCT-II). Its transpose
    is its decoder.

    Args:
        n: number of tokens.
        m: number of rows, 1 ≤ m ≤ n.

    Returns:
        (m, n), float64.

    Raises:
        TypeError, ValueError: a size is not as above.
    """
    n, m = _validate.count("n", n), _validate.count("m", m)
    if m > n:
        raise ValueError(f"m: expected at most n = {n}, got {m}")
    i = torch.arange(m, dtype=torch.float64)[:, None]
    j = torch.arange(n, dtype=torch.float64)
    W = torch.cos(torch.pi * i * (j + 0.5) / n)
    return W / W.norm(dim=1, keepdim=True)


def linformer_attention(
    q: Float[Tensor, "*batch queries d_head"],
    k: Float[Tensor, "*batch n d_head"],
    v: Float[Tensor, "*batch n d_value"],
    compress_k: Float[Tensor, "m n"],
    compress_v: Float[Tensor, "m n"],
) -> Float[Tensor, "*batch queries d_value"]:
    """Attention to m compressed keys: attention(q, W_k k, W_v v).

    LCE on the sequence axis of keys and values: time and memory are
    O(queries · m), not O(queries · n). Each compressed key holds the future
    too, so no mask makes it causal.

    Args:
        q, k, v: as for ``attention``.
        compress_k, compress_v: W_k and W_v, (m, n).

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Wang et al. (2020), "Linformer", equation 7, where W_k and W_v
        are E and F.
    """
    *_, n, d_head = _validate.layout("k", k, "…", "n", "d_head")
    _validate.layout("q", q, "…", "queries", d_head)
    _validate.layout("v", v, "…", n, "d_value")
    _validate.layout("compress_k", compress_k, "m", n)
    _validate.layout("compress_v", compress_v, len(compress_k), n)
    _validate.same_precision(
        q=q, k=k, v=v, compress_k=compress_k, compress_v=compress_v
    )
    with _validate.inner():
        return attention(q, compress_k @ k, compress_v @ v)


def token_mixing(
    x: Float[Tensor, "*batch n d"],
    first: Float[Tensor, "hidden n"],
    second: Float[Tensor, "n_out hidden"],
) -> Float[Tensor, "*batch n_out d"]:
    """Two LCEs with a GELU between: W_2 GELU(W_1 x).

    What an MLP-Mixer does along the tokens; with its norm and residual, and
    as many tokens out as in, the whole step is
    x + W_2 GELU(W_1 LayerNorm(x)).

    Args:
        x: (…, n, d).
        first: W_1, (hidden, n).
        second: W_2, (n_out, hidden).

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Tolstikhin et al. (2021), "MLP-Mixer", equation 1.
    """
    n = _validate.layout("x", x, "…", "n", "d")[-2]
    _validate.layout("first", first, "hidden", n)
    _validate.layout("second", second, "n_out", len(first))
    _validate.same_precision(x=x, first=first, second=second)
    hidden = functional.gelu(first @ x)  # (…, hidden, d)
    return second @ hidden
