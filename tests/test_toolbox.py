"""Chapter 00: the diagnostic, and the convention of complex gradients."""

import pytest
import torch

from linear_time.exercises.toolbox import DIAGNOSTIC, diagnose


def stub():
    raise NotImplementedError


def right(name):
    return lambda: tuple(question.right for question in DIAGNOSTIC[name].questions)


def test_the_diagnostic_names_the_sections_to_read(capsys):
    answers = {name: right(name) for name in DIAGNOSTIC}
    assert len(DIAGNOSTIC) == 5 and sum(len(s.questions) for s in DIAGNOSTIC.values()) == 15
    assert diagnose(answers) == []
    assert "15 of 15" in capsys.readouterr().out
    answers["00-eigen"] = lambda: (-1 - 2j, *right("00-eigen")()[1:])
    answers["00-ode"] = stub
    answers["00-roofline"] = lambda: (None, None, None)
    missed = [DIAGNOSTIC[name].title for name in ("00-eigen", "00-ode", "00-roofline")]
    assert diagnose(answers) == missed
    said = capsys.readouterr().out
    assert "2 of 3, read it (missed: 1)" in said and "not attempted yet" in said
    assert "8 of 15. Sections to read: 3 of 5." in said
    with pytest.raises(ValueError, match="answers: expected names among 00-eigen"):
        diagnose({"00-nothing": stub})


@pytest.mark.parametrize("z", [1 + 2j, -0.3 + 0.1j])
def test_grad_of_a_complex_leaf_is_twice_the_conjugate_wirtinger_derivative(z):
    """loss = |z|²·Re z: .grad is ∂loss/∂p + i ∂loss/∂q, with no ½."""
    leaf = torch.tensor(z, dtype=torch.complex128, requires_grad=True)
    (leaf.abs() ** 2 * leaf.real).backward()
    p, q = z.real, z.imag
    by_parts = complex(3 * p**2 + q**2, 2 * p * q)
    assert leaf.grad.item() == pytest.approx(by_parts, abs=1e-14)
