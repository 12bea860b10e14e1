"""Chapter 11: the continuous system h′ = A h + B x, y = C h + D x."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from linear_time import _validate
from linear_time.layer import cast_like, full


class Modes(NamedTuple):
    """The modes of a system: C exp(tA) B = Σ_n weight_n exp(rate_n t)."""

    rates: Complex[Tensor, " N"]
    weights: Complex[Tensor, " N"]


@dataclass(frozen=True, eq=False)
class StateSpace:
    """A linear time-invariant system with one input and one output.

    h′(t) = A h(t) + B x(t),  y(t) = C h(t) + D x(t).

    The tensors are copied, a half precision to float32, and the attributes
    cannot be assigned.

    Args:
        A: state matrix (N, N), real, in 1/time.
        B: input vector (N,).
        C: output vector (N,).
        D: direct term, a number; 0 if left out.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit or a value is not finite.

    Source: Gu, Goel & Ré (2022), S4, equation 1.
    """

    A: Float[Tensor, "N N"]
    B: Float[Tensor, " N"]
    C: Float[Tensor, " N"]
    D: float | int | Float[Tensor, ""] = 0.0

    def __post_init__(self) -> None:
        n = _validate.square("A", self.A, real=True)
        _validate.shaped("B", self.B, (n,), real=True)
        _validate.shaped("C", self.C, (n,), real=True)
        D: Any = self.D
        if isinstance(D, (int, float)) and not isinstance(D, bool):
            D = self.A.new_tensor(D)
        _validate.shaped("D", D, (), real=True)
        given = {"A": self.A, "B": self.B, "C": self.C, "D": D}
        dtype = _validate.full_precision(**given)
        for name, value in given.items():
            # A frozen dataclass sets its own attributes this way.
            object.__setattr__(self, name, value.to(dtype, copy=True))

    @property
    def state_size(self) -> int:
        """N, the length of the state h."""
        return len(self.B)

    def impulse_response(
        self, t: Float[Tensor, " times"]
    ) -> Float[Tensor, " times"]:
        """C exp(tA) B: the output after an impulse at time 0, from rest.

        With D ≠ 0 the true response also holds D times a Dirac impulse at
        t = 0. No array can hold that term; it is left out.

        Args:
            t: times ≥ 0, (times,), in the time unit of A.

        Returns:
            The response, (times,).

        Source: variation of constants, chapter 11.
        """
        times = self._times(t)
        flow = torch.linalg.matrix_exp(times[:, None, None] * self.A)
        return cast_like(flow @ self.B @ self.C, t)

    def step_response(
        self, t: Float[Tensor, " times"]
    ) -> Float[Tensor, " times"]:
        """The output when the input is 1 from time 0 on, from rest.

        y(t) = ∫₀ᵗ C exp(sA) B ds + D.

        Args:
            t: times ≥ 0, (times,), in the time unit of A.

        Returns:
            The response, (times,); at t = 0 it is D.

        Source: variation of constants, chapter 11.
        """
        times = self._times(t)
        _, phi_1, _ = _phi_matrices(times[:, None, None] * self.A)
        return cast_like(times * (phi_1 @ self.B @ self.C) + self.D, t)

    def simulate(
        self,
        x: Float[Tensor, "*batch length"],
        delta: float | int | Float[Tensor, ""],
        initial_state: Float[Tensor, "..."] | None = None,
        hold: Literal["zero", "linear"] = "zero",
        return_states: bool = False,
    ) -> (
        Float[Tensor, "*batch length"]
        | tuple[
            Float[Tensor, "*batch length"], Float[Tensor, "*batch length N"]
        ]
    ):
        """The exact output for sampled input, at every sample time kΔ.

        ``hold`` says what the input does between the samples:

        - "zero": x_k is held over the step that ends at kΔ, so that
          h_k = exp(ΔA) h_{k-1} + (∫₀^Δ exp(sA) ds) B x_k. The initial state
          is h_{-1}, one step before the first sample. These states are
          ``scipy.signal.lsim(..., interp=False)``'s, one index earlier.
        - "linear": x runs in a straight line from x_{k-1} to x_k. The initial
          state is h_0, at the first sample. This is ``scipy.signal.lsim``.

        Args:
            x: input samples, (…, length).
            delta: step size Δ > 0, in the time unit of A.
            initial_state: (N,) or (…, N) with the batch sizes of x; zero if
                None.
            hold: "zero" or "linear".
            return_states: also return the states.

        Returns:
            y, (…, length); or (y, states) with states (…, length, N).

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: a shape does not fit, a value is not finite, Δ ≤ 0,
                or the hold is unknown.

        Source: variation of constants over one step, chapter 11.
        """
        _validate.sequence("x", x, real=True)
        _validate.number("delta", delta)
        _validate.one_of("hold", hold, ("zero", "linear"))
        dtype = _validate.full_precision(A=self.A, x=x)
        h = _validate.initial_state(
            initial_state, x, self.state_size, dtype, real=True
        )
        inputs = full(x)
        flow, phi_1, phi_2 = _phi_matrices(delta * self.A)
        held = delta * (phi_1 @ self.B)  # the effect of x = 1 over a step
        ramp = delta * (phi_2 @ self.B)  # of x rising from 0 to 1 over it
        if hold == "zero":
            states, drive = [], held * inputs[..., None]  # (…, length, N)
        else:
            change = inputs.diff(dim=-1)[..., None]
            states, drive = [h], held * inputs[..., :-1, None] + ramp * change
        for drive_k in drive.unbind(-2):  # drive_k: (…, N)
            h = h @ flow.mT + drive_k
            states.append(h)
        trajectory = torch.stack(states, dim=-2)  # (…, length, N)
        y = cast_like(trajectory @ self.C + self.D * inputs, x)
        return (y, trajectory) if return_states else y

    def frequency_response(
        self, omega: Float[Tensor, " frequencies"]
    ) -> Complex[Tensor, " frequencies"]:
        """G(ω) = C (iωI − A)⁻¹ B + D.

        In the steady state of a stable system the input cos(ωt) comes out as
        |G| cos(ωt + arg G).

        Args:
            omega: angular frequencies ω = 2πf, (frequencies,), in radians
                per time unit of A.

        Returns:
            G(ω), complex, (frequencies,).

        Raises:
            TypeError, ValueError: wrong frequencies, or iω is an eigenvalue
                of A, where G has a pole.

        Source: the Laplace transform of h′ = A h + B x at s = iω.
        """
        omega = self._vector("omega", omega)
        identity = torch.eye(
            self.state_size, dtype=self.A.dtype, device=self.A.device
        )
        resolvent = 1j * omega[:, None, None] * identity - self.A
        right = self.B.to(resolvent.dtype)
        try:
            h = torch.linalg.solve(resolvent, right.expand(len(omega), -1))
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                "omega: expected frequencies with iω no eigenvalue of A, "
                "got one where the response has a pole"
            ) from error
        return h @ self.C.to(h.dtype) + self.D

    def eigenvalues(self) -> Complex[Tensor, " N"]:
        """The eigenvalues λ of A, complex, (N,), slowest decay first."""
        rates = torch.linalg.eigvals(self.A)
        return rates[torch.argsort(-rates.real, stable=True)]

    def is_stable(self) -> bool:
        """Whether every eigenvalue of A has Re λ < 0, so that h dies out.

        A real part within the rounding of the eigenvalues, N ε ‖A‖, counts
        as 0: an oscillator without damping is not stable.

        Source: exp(tA) → 0 as t → ∞ if and only if all Re λ < 0.
        """
        rounding = self.state_size * torch.finfo(self.A.dtype).eps
        margin = rounding * torch.linalg.matrix_norm(self.A, 2)
        return bool((torch.linalg.eigvals(self.A).real < -margin).all())

    def modes(self) -> Modes:
        """Split the impulse response: C exp(tA) B = Σ_n w_n exp(λ_n t).

        With A = V diag(λ) V⁻¹ the weights are w_n = (C V)_n (V⁻¹ B)_n.

        Returns:
            Modes(rates, weights): λ and w, complex, (N,), slowest first.

        Raises:
            ValueError: A has no usable basis of eigenvectors (a critically
                damped spring, for one): V loses half of the digits or more.

        Source: the eigenvalue decomposition of A, chapter 11.
        """
        rates, V = torch.linalg.eig(self.A)
        condition = torch.linalg.cond(V)
        if not condition < 0.1 * torch.finfo(self.A.dtype).eps ** -0.5:
            raise ValueError(
                "A: expected a matrix with a well-conditioned basis of "
                f"eigenvectors, got condition number {float(condition):.1e}"
            )
        order = torch.argsort(-rates.real, stable=True)
        weights = (self.C.to(V.dtype) @ V) * torch.linalg.solve(
            V, self.B.to(V.dtype)
        )
        return Modes(rates[order], weights[order])

    def controllability_matrix(self) -> Float[Tensor, "N N"]:
        """The columns B, AB, …, A^{N-1} B.

        The input can steer the state anywhere if and only if they span the
        whole space (rank N).

        Source: Kalman's rank condition.
        """
        columns = [self.B]
        while len(columns) < self.state_size:
            columns.append(self.A @ columns[-1])
        return torch.stack(columns, dim=1)

    def series(self, second: "StateSpace") -> "StateSpace":
        """This system followed by ``second``, which reads its output.

        The state is (h₁, h₂), and the frequency responses multiply.

        Args:
            second: the system that reads this one's output.

        Raises:
            TypeError: not a StateSpace, or of another precision.

        Source: y₁ put in the place of x₂.
        """
        if not isinstance(second, StateSpace):
            raise TypeError(
                "second: expected a StateSpace, "
                f"got {_validate.describe(second)}"
            )
        _validate.full_precision(A=self.A, second=second.A)
        above = self.A.new_zeros(self.state_size, second.state_size)
        coupling = torch.outer(second.B, self.C)
        return StateSpace(
            A=torch.cat(
                [
                    torch.cat([self.A, above], dim=1),
                    torch.cat([coupling, second.A], dim=1),
                ]
            ),
            B=torch.cat([self.B, second.B * self.D]),
            C=torch.cat([second.D * self.C, second.C]),
            D=second.D * self.D,
        )

    def _vector(self, name: str, value: Tensor) -> Tensor:
        _validate.inexact(name, value, real=True)
        if value.ndim != 1:
            raise ValueError(
                f"{name}: expected shape (length,), "
                f"got shape {_validate.shape_text(value.shape)}"
            )
        _validate.full_precision(A=self.A, **{name: value})
        return full(value)

    def _times(self, t: Tensor) -> Tensor:
        t = self._vector("t", t)
        if _validate.searched() and (t < 0).any():
            raise ValueError(
                "t: expected times >= 0, "
                f"got a smallest time of {t.min().item():g}"
            )
        return t


def mass_on_a_spring(
    mass: float | int, damping: float | int, stiffness: float | int
) -> StateSpace:
    """m q″ + c q′ + k q = x: a force x moves a mass on a damped spring.

    The state is (position q in m, velocity q′ in m/s), the output is q.

    Args:
        mass: m > 0, in kg.
        damping: c ≥ 0, in kg/s.
        stiffness: k ≥ 0, in N/m.

    Raises:
        TypeError, ValueError: an argument is no such number.

    Source: Newton's second law.
    """
    _validate.number("mass", mass)
    _validate.number("damping", damping, or_equal=True)
    _validate.number("stiffness", stiffness, or_equal=True)
    return StateSpace(
        A=_float64([[0, 1], [-stiffness / mass, -damping / mass]]),
        B=_float64([0, 1 / mass]),
        C=_float64([1, 0]),
    )


def low_pass(cutoff_hz: float | int) -> StateSpace:
    """Keep what is slower than the cutoff: 1 / (p² + √2 p + 1), p = s/ω.

    Args:
        cutoff_hz: frequency > 0 in Hz where the gain is 1/√2; time in s.

    Raises:
        TypeError, ValueError: the cutoff is no such number.

    Source: Butterworth (1930), order 2.
    """
    _validate.number("cutoff_hz", cutoff_hz)
    return _second_order(cutoff_hz, 1 / math.sqrt(2), (1, 0, 0))


def high_pass(cutoff_hz: float | int) -> StateSpace:
    """Keep what is faster than the cutoff: p² / (p² + √2 p + 1), p = s/ω.

    Args:
        cutoff_hz: frequency > 0 in Hz where the gain is 1/√2; time in s.

    Raises:
        TypeError, ValueError: the cutoff is no such number.

    Source: Butterworth (1930), order 2.
    """
    _validate.number("cutoff_hz", cutoff_hz)
    return _second_order(cutoff_hz, 1 / math.sqrt(2), (0, 0, 1))


def notch(frequency_hz: float | int, width_hz: float | int) -> StateSpace:
    """Remove one frequency: (p² + 1) / (p² + p/Q + 1), p = s/ω.

    Args:
        frequency_hz: the frequency > 0 in Hz where the gain is 0; time in s.
        width_hz: distance in Hz > 0 between the two frequencies around it
            where the gain is 1/√2; Q = frequency / width.

    Raises:
        TypeError, ValueError: an argument is no such number.

    Source: the second-order band-stop filter.
    """
    _validate.number("frequency_hz", frequency_hz)
    _validate.number("width_hz", width_hz)
    return _second_order(frequency_hz, frequency_hz / width_hz, (1, 0, 1))


def _second_order(
    frequency_hz: float | int,
    quality: float,
    numerator: tuple[int, int, int],
) -> StateSpace:
    """(b₀ + b₁ p + b₂ p²) / (1 + p/Q + p²) with p = s/ω, ω = 2πf.

    In the time unit 1/ω the state is (u, u′) with u″ + u′/Q + u = x; the
    factor ω brings it back to seconds and keeps the entries of one size.
    """
    b_0, b_1, b_2 = numerator
    omega = 2 * math.pi * float(frequency_hz)
    return StateSpace(
        A=omega * _float64([[0, 1], [-1, -1 / quality]]),
        B=omega * _float64([0, 1]),
        C=_float64([b_0 - b_2, b_1 - b_2 / quality]),
        D=float(b_2),
    )


def _float64(rows: list) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _phi_matrices(Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(Z), φ₁(Z) = Σ Z^k/(k+1)!, φ₂(Z) = Σ Z^k/(k+2)!, for Z (…, N, N).

    The three stand side by side in one exponential, with no inverse of Z:

        exp ⎡Z  I  0⎤   ⎡exp(Z)  φ₁(Z)  φ₂(Z)⎤
            ⎢0  0  I⎥ = ⎢  0       I      I  ⎥.
            ⎣0  0  0⎦   ⎣  0       0      I  ⎦
    """
    n = Z.shape[-1]
    augmented = Z.new_zeros(*Z.shape[:-2], 3 * n, 3 * n)
    augmented[..., :n, :n] = Z
    augmented[..., :-n, n:].diagonal(dim1=-2, dim2=-1).fill_(1)
    flow, phi_1, phi_2 = torch.linalg.matrix_exp(augmented)[..., :n, :].split(
        n, dim=-1
    )
    return flow, phi_1, phi_2
