"""Chapter 01: recurrent networks, which remember with a state of fixed size.

The state h (d_model numbers) is all that a recurrent network knows of the
past. Generation therefore costs the same at every step, and training waits
for one step after the other: nonlinear steps cannot be merged.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linear_time import _validate
from linear_time.layer import full, log_uniform, without_autocast, zeros
from linear_time.mixer import SequenceMixer


class _Recurrent(SequenceMixer):
    """What the networks share: all but the cell. The output is the state.

    The state and all that is computed from it are at least float32: it is
    rounded once, in the output, and not at every step.
    """

    input: nn.Linear  # reads x_t; its rows are those of all gates
    recurrent: nn.Linear  # reads h_{t−1}

    def cell(self, u: Tensor, v: Tensor, h: Tensor) -> Tensor:
        """h_t from u = W x_t + b and v = U h_{t−1} + c, for all gates."""
        raise NotImplementedError

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "batch d_model"]:
        """h_0 = 0, (batch, d_model), at least float32."""
        weight = self.recurrent.weight
        return zeros(
            weight, batch_size, self.d_model, device=device, dtype=dtype
        )

    def step(
        self,
        x_t: Float[Tensor, "batch d_model"],
        state: Float[Tensor, "batch d_model"],
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch d_model"]]:
        self.check_input(x_t, "x_t")
        _validate.state("state", state, len(x_t), self.d_model)
        u, h = full(self.input(x_t)), full(state)
        with without_autocast(x_t):
            h = self.cell(u, self._recall()(h), h)
        return h.to(x_t.dtype), h

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Float[Tensor, "batch d_model"] | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch length d_model"], Float[Tensor, "batch d_model"]
    ]:
        """All positions, and the state after the last; see ``forward``.

        A position of padding leaves the state as it was.
        """
        self.check_input(x)
        self.check_mask(mask, x)
        if state is None:
            state = self.initial_state(len(x), x.device, x.dtype)
        else:
            _validate.state("state", state, len(x), self.d_model)
        h, states = full(state), []
        u = full(self.input(x))  # one product for all steps
        with without_autocast(x):
            recall = self._recall()
            # unbind, not [:, t]: the gradient of each index would fill a
            # tensor of the whole length, and backward would take O(length²).
            for t, u_t in enumerate(u.unbind(1)):
                new = self.cell(u_t, recall(h), h)  # (batch, d_model)
                if mask is not None:
                    new = torch.where(mask[:, t, None], new, h)
                h = new
                states.append(h)
        return torch.stack(states, dim=1).to(x.dtype), h

    def _recall(self) -> Callable[[Tensor], Tensor]:
        """h ↦ U h + c in at least float32; the weights are cast once."""
        weight, bias = full(self.recurrent.weight), None
        if self.recurrent.bias is not None:
            bias = full(self.recurrent.bias)
        return lambda h: nn.functional.linear(h, weight, bias)


class ElmanRNN(_Recurrent):
    """The plain recurrent network: h_t = tanh(W_x x_t + W_h h_{t−1} + b).

    ``torch.nn.RNN`` has two biases that are only ever added; here is one.

    Args:
        d_model: width of input, state and output.
        spectral_radius: the largest |eigenvalue| of W_h at the start; what a
            random W_h has if None.

    Raises:
        TypeError, ValueError: d_model is not a whole number ≥ 1, or the
            radius not a number > 0.

    Source: Elman (1990), "Finding Structure in Time".
    """

    def __init__(
        self, d_model: int, spectral_radius: float | int | None = None
    ) -> None:
        super().__init__(d_model)
        d_model = self.d_model
        self.input = nn.Linear(d_model, d_model)
        self.recurrent = nn.Linear(d_model, d_model, bias=False)
        if spectral_radius is not None:
            _validate.number("spectral_radius", spectral_radius)
            weight = self.recurrent.weight.data
            radius = torch.linalg.eigvals(weight.double()).abs().max().item()
            weight *= spectral_radius / radius

    def cell(
        self, u: Float[Tensor, "batch d_model"], v: Tensor, h: Tensor
    ) -> Float[Tensor, "batch d_model"]:
        return torch.tanh(u + v)


class GRU(_Recurrent):
    """The gated recurrent unit, as ``torch.nn.GRU`` computes it.

        r = σ(W_r x_t + U_r h_{t−1} + b_r)              the reset gate,
        z = σ(W_z x_t + U_z h_{t−1} + b_z)              the update gate,
        n = tanh(W_n x_t + b_n + r ⊙ (U_n h_{t−1} + c_n)),
        h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}.

    Here z multiplies the old state: z = 1 keeps it. The reset gate acts after
    the product with U_n; the paper's acts before, U_n (r ⊙ h_{t−1}). The
    gates are stacked in the order r, z, n, and each has the two biases of
    torch.

    Args:
        d_model: width of input, state and output.
        memory: the longest time, in steps, that the gates start out to
            remember, ≥ 2. With a gate at rest, σ(b_z), a state fades with
            the time constant τ = 1/(1 − σ(b_z)) = 1 + exp(b_z). The units
            get τ log-uniform from 2 to this length, b_z = log(τ − 1). None
            leaves torch's start, b_z near 0, where τ is about 2.

    Raises:
        TypeError, ValueError: d_model is not a whole number ≥ 1, or memory
            not a number ≥ 2.

    Source: Cho et al. (2014), "Learning Phrase Representations using RNN
        Encoder–Decoder", with the reset gate as above. For the memory:
        Tallec & Ollivier (2018), "Can Recurrent Neural Networks Warp Time?",
        whose chrono initialisation draws τ uniformly; log-uniform puts as
        many units on each scale.
    """

    def __init__(self, d_model: int, memory: float | int | None = None) -> None:
        super().__init__(d_model)
        d_model = self.d_model
        self.input = nn.Linear(d_model, 3 * d_model)
        self.recurrent = nn.Linear(d_model, 3 * d_model)
        if memory is not None:
            _validate.number("memory", memory, above=2, or_equal=True)
            tau = log_uniform("memory", 2, memory, d_model).exp()
            update = slice(d_model, 2 * d_model)
            self.input.bias.data[update] = (tau - 1).log()
            self.recurrent.bias.data[update] = 0  # the two are added

    def cell(
        self, u: Float[Tensor, "batch three_d_model"], v: Tensor, h: Tensor
    ) -> Float[Tensor, "batch d_model"]:
        u_r, u_z, u_n = u.chunk(3, dim=-1)
        v_r, v_z, v_n = v.chunk(3, dim=-1)
        r = torch.sigmoid(u_r + v_r)
        z = torch.sigmoid(u_z + v_z)
        n = torch.tanh(u_n + r * v_n)
        return (1 - z) * n + z * h


@torch.no_grad()
def jacobian_product_norms(
    rnn: ElmanRNN,
    x: Float[Tensor, "length d_model"],
    initial_state: Float[Tensor, " d_model"] | None = None,
) -> Float[Tensor, " length"]:
    """How strongly h_0 still acts on h_t: ‖∂h_t/∂h_0‖ for t = 1 … length.

    By the chain rule ∂h_t/∂h_0 = J_t J_{t−1} ⋯ J_1, and the cell gives
    J_t = diag(1 − h_t²) W_h. The norm is the largest singular value. Near
    h = 0 it is ‖W_hᵗ‖, which goes like ρᵗ with the spectral radius ρ: the
    gradient vanishes for ρ < 1. For ρ > 1 it explodes, unless the slopes
    1 − h² ≤ 1 of a saturated tanh hold it back.

    Args:
        rnn: the network, say ``ElmanRNN(d_model, spectral_radius=0.9)``.
        x: one input sequence, (length, d_model).
        initial_state: h_0, (d_model,); zero if None.

    Returns:
        The norms, (length,); entry i belongs to t = i + 1. They may
        underflow to 0 or overflow, as the gradients themselves do.

    Raises:
        TypeError, ValueError: x or h_0 does not fit the network.

    Source: Bengio, Simard & Frasconi (1994), "Learning Long-Term
        Dependencies with Gradient Descent is Difficult"; Pascanu, Mikolov &
        Bengio (2013), "On the Difficulty of Training Recurrent Neural
        Networks".
    """
    _validate.layout("x", x, "length", rnn.d_model)
    h = rnn.initial_state(1, x.device, x.dtype)
    if initial_state is not None:
        _validate.layout("initial_state", initial_state, rnn.d_model)
        h = full(initial_state[None])
    weight = full(rnn.recurrent.weight)
    product = torch.eye(rnn.d_model, dtype=weight.dtype, device=x.device)
    norms = []
    for u_t in full(rnn.input(x[None])).unbind(1):
        h = rnn.cell(u_t, nn.functional.linear(h, weight), h)  # (1, d_model)
        product = (1 - h.mT.square()) * (weight @ product)
        norms.append(torch.linalg.matrix_norm(product, ord=2))
    return torch.stack(norms)
