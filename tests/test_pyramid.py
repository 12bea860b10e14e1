"""The pyramid's levels and its top-down path; the Inception block against torch and its count."""

import itertools
import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional

from book import ROOT, load
from helpers import close, draw
from linear_time import records
from linear_time.compression import LinearCompression, matrix, optimal_compression, share_kept
from linear_time.pyramid import INCEPTION_3A, InceptionBlock, PyramidCompression

F64 = torch.float64


def pyramid(*arguments, **options):
    torch.manual_seed(0)
    return PyramidCompression(*arguments, **options).double()


# --- PyramidCompression --------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(8, 4, 2), (9, 4, 3, 1), (7, 5), (2, 1)])
@pytest.mark.parametrize("d", [None, 3])
def test_levels_have_their_sizes_and_the_last_is_forward(sizes, d):
    model, x = pyramid(sizes, d), draw(2, sizes[0], 3)
    levels = model.levels(x)
    assert [tuple(level.shape) for level in levels] == [(2, n, 3) for n in sizes]
    assert torch.equal(model(x), levels[-1])
    assert (model.n_in, model.n_out, model.d_in) == (sizes[0], sizes[-1], d)


@torch.no_grad()
def test_a_linear_pyramid_is_one_matrix_of_low_rank():
    model, x = pyramid((8, 4, 2)), draw(2, 8, 3)
    product = model.down[1].weight @ model.down[0].weight
    close(matrix(model), product)
    close(model(x), product @ x)
    assert torch.equal(model.levels(x)[0], x)
    close(model.levels(x)[1], model.down[0].weight @ x)
    wide = matrix(pyramid((8, 2, 1)))  # the narrow step bounds the rank of what follows
    assert torch.linalg.matrix_rank(wide) == 1


@torch.no_grad()
def test_an_activation_stands_after_each_step():
    model, x = pyramid((8, 4, 2), activation=functional.gelu), draw(2, 8, 3)
    middle = functional.gelu(model.down[0].weight @ x)
    close(model.levels(x)[1], middle)
    close(model(x), functional.gelu(model.down[1].weight @ middle))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(8, 4, 2), (9, 4, 3)])
def test_top_down_path_by_loops(sizes):
    model, x = pyramid(sizes, 3), draw(2, sizes[0], 3)
    C = [x]
    for down in model.down:
        C.append(down.weight @ C[-1])
    laterals = [
        level @ layer.weight.T + layer.bias for level, layer in zip(C, model.lateral, strict=True)
    ]
    expected = [laterals[-1]]
    for level in reversed(range(len(sizes) - 1)):
        coarse, fine = expected[0], laterals[level].clone()
        for i in range(sizes[level]):  # token i sits in coarse token ⌊i · coarse/fine⌋
            fine[:, i] += coarse[:, i * sizes[level + 1] // sizes[level]]
        expected.insert(0, fine)
    for left, right in zip(model.levels(x), expected, strict=True):
        close(left, right)


def test_the_top_down_path_shows_every_level_the_whole_input():
    x = draw(8, 3)
    for d, reads_all in ((None, False), (3, True)):
        model = pyramid((8, 4, 2), d)
        J = torch.autograd.functional.jacobian(lambda row, m=model: m.levels(row[None])[0][0], x)
        assert bool((J.abs().amax(dim=(1, 3)) > 0).all()) == reads_all  # (8, 8) of the finest level


def test_with_windows_of_two_a_token_sees_what_its_ancestor_at_the_top_sees():
    """Not the whole input, unless the top is one token."""
    for sizes, seen in (((16, 8, 4, 2), 8), ((8, 4, 2, 1), 8), ((8, 4), 2)):
        model = pyramid(sizes, 1)
        with torch.no_grad():
            for step in model.down:
                pairs = torch.eye(step.n_out, dtype=F64).repeat_interleave(2, 1) / 2
                step.weight.copy_(pairs)
        for level in range(len(sizes)):
            x = draw(1, sizes[0], 1).requires_grad_()
            model.levels(x)[level][0, 0, 0].backward()
            assert int((x.grad != 0).sum()) == seen


@pytest.mark.parametrize("sizes", [(9, 3), (9, 7, 3), (9, 6, 4, 3)])
@torch.no_grad()
def test_no_encoder_beats_the_best_pair_where_the_decoder_is_a_matrix(sizes):
    X = draw(50, 9, 2)
    columns = X.movedim(1, 0).flatten(1)
    best = optimal_compression(X, 3)
    for seed in range(20):
        torch.manual_seed(seed)
        code = PyramidCompression(sizes, activation=functional.gelu).double()(5 * X)
        Y = code.movedim(1, 0).flatten(1)
        R = torch.linalg.lstsq(Y.T, columns.T).solution.T
        assert (columns - R @ Y).square().sum() >= best.error * (1 - 1e-12)


def test_the_recorded_runs_say_what_chapter_06_says(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    patches = load(ROOT / "experiments" / "pyramid.py").patches()
    best = optimal_compression(patches["train"].double(), 8)
    pair = share_kept(patches["test"].double(), best.encoder, best.decoder)
    assert round(pair, 4) == 0.9467
    runs = records.read("pyramid")
    designs = ((64, 8), (64, 37, 8), (64, 32, 16, 8))
    found = {}
    for task in ("digits", "photograph"):
        for sizes in designs:
            mine = runs.where(task=task, sizes=sizes)
            chosen = mine.chosen("validation", largest=True)
            rates = mine.by("lr")
            assert min(rates) < chosen[0]["lr"] and len(chosen) == 3
            assert chosen[0]["lr"] < max(rates)  # the sweep did not end there
            found[task, sizes] = chosen.values("test")
            assert chosen[0]["weights"] == sum(a * b for a, b in itertools.pairwise(sizes))
    mean = {key: statistics.mean(values) for key, values in found.items()}
    wide, three, one = (64, 37, 8), (64, 32, 16, 8), (64, 8)
    assert abs(mean["digits", wide] - mean["digits", three]) < 0.001
    assert 0.014 < mean["digits", three] - mean["digits", one] < 0.018
    p = mean["digits", wide]
    assert 0.005 < (p * (1 - p) / 357) ** 0.5 < 0.007  # of one design; 0.009 for the other
    assert abs(mean["photograph", wide] - mean["photograph", three]) < 0.0002
    assert all(abs(v - pair) < 0.001 for key in found if key[0] == "photograph" for v in found[key])
    assert 0.0003 < mean["photograph", three] - pair < 0.0007


def test_gradients_reach_every_parameter():
    model, x = pyramid((8, 4, 2), 3, functional.gelu), draw(2, 8, 3).requires_grad_()
    sum((level * draw(*level.shape, seed=2)).sum() for level in model.levels(x)).backward()
    for name, parameter in [("x", x), *model.named_parameters()]:
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_number_of_parameters():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert count(PyramidCompression((64, 32, 16))) == 64 * 32 + 32 * 16
    assert count(PyramidCompression((64, 32, 16), 5)) == 64 * 32 + 32 * 16 + 3 * (25 + 5)
    assert count(LinearCompression(64, 16)) == 64 * 16


@pytest.mark.bad_input
@pytest.mark.parametrize("sizes", [(4,), (), (4, 4), (2, 4), (8, 4, 6)])
def test_bad_input_sizes(sizes):
    with pytest.raises(ValueError, match=r"^sizes: expected at least two, each smaller .* got \("):
        PyramidCompression(sizes)


@pytest.mark.bad_input
def test_bad_input_pyramid():
    with pytest.raises(ValueError, match=r"^sizes: expected a whole number >= 1, got 0"):
        PyramidCompression((4, 2, 0))
    with pytest.raises(TypeError, match=r"^sizes: expected a whole number >= 1, got 2\.0"):
        PyramidCompression((4, 2.0))
    with pytest.raises(ValueError, match=r"^d_in: expected a whole number >= 1, got 0"):
        PyramidCompression((4, 2), 0)
    with pytest.raises(ValueError, match=r"^x: expected shape \(batch, 4, 3\)"):
        PyramidCompression((4, 2), 3).levels(torch.ones(1, 4, 2))


# --- InceptionBlock ------------------------------------------------------------------------------


def test_block_3a_has_the_papers_parameters():
    """Its 159K fits units of 1024, cut off, with or without biases; in thousands it is 163, 164."""
    block = InceptionBlock(*INCEPTION_3A)
    counts = {"weight": 0, "bias": 0}
    for name, parameter in block.named_parameters():
        counts[name.rsplit(".", 1)[1]] += parameter.numel()
    assert counts == {"weight": 163_328, "bias": 368}
    assert counts["weight"] / 1024 == 159.5
    for count in (163_328, 163_328 + 368):
        assert count // 1024 == 159 and count // 1000 != 159 and round(count / 1000) != 159
    assert block.d_out == 256 == 64 + 128 + 32 + 32
    # Without the 1×1 in front of the large windows the block has 2.4 times the weights.
    direct = 192 * 64 + 192 * 128 * 9 + 192 * 32 * 25 + 192 * 32
    assert round(direct / 163_328, 1) == 2.4


@torch.no_grad()
def test_four_views_side_by_side():
    torch.manual_seed(0)
    block = InceptionBlock(3, 2, 4, 5, 2, 3, 1).double()
    x = draw(2, 3, 7, 6)

    def conv(branch, layer, x):
        weight, bias = list(block.branches[branch].parameters())[2 * layer : 2 * layer + 2]
        size = weight.shape[-1]
        padded = functional.pad(x, [size // 2] * 4)
        windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # (batch, d, h, w, K, K)
        return (torch.einsum("bchwij,ocij->bohw", windows, weight) + bias[:, None, None]).relu()

    padded = functional.pad(x, [1] * 4, value=-torch.inf)
    pooled = padded.unfold(2, 3, 1).unfold(3, 3, 1).amax(dim=(-2, -1))
    views = [
        conv(0, 0, x),
        conv(1, 1, conv(1, 0, x)),
        conv(2, 1, conv(2, 0, x)),
        conv(3, 0, pooled),
    ]
    y = block(x)
    assert y.shape == (2, 2 + 5 + 3 + 1, 7, 6)
    close(y, torch.cat(views, dim=1))
    assert [tuple(p.shape) for n, p in block.named_parameters() if n.endswith("weight")] == [
        (2, 3, 1, 1),
        (4, 3, 1, 1),
        (5, 4, 3, 3),
        (2, 3, 1, 1),
        (3, 2, 5, 5),
        (1, 3, 1, 1),
    ]


@torch.no_grad()
def test_a_1x1_convolution_is_lce_on_the_channels():
    lce, x = LinearCompression(6, 2).double(), draw(2, 6, 5, 4)
    conv = functional.conv2d(x, lce.weight[:, :, None, None])
    close(lce(x.flatten(2)).unflatten(2, (5, 4)), conv)


def test_receptive_views():
    """How far each branch sees around one output pixel: 1, 3, 5 and 3."""
    torch.manual_seed(1)
    block = InceptionBlock(1, 9, 9, 9, 9, 9, 9).double()
    for branch, width in zip(block.branches, (1, 3, 5, 3), strict=True):
        seen = torch.zeros(9, 9, dtype=torch.bool)
        for seed in range(99):
            x = draw(1, 1, 9, 9, seed=seed).requires_grad_()
            branch(x)[0, :, 4, 4].sum().backward()
            seen |= x.grad[0, 0] != 0
        low, high = 4 - width // 2, 4 + width // 2
        expected = torch.zeros(9, 9, dtype=torch.bool)
        expected[low : high + 1, low : high + 1] = True
        assert torch.equal(seen, expected)


def test_one_pixel_and_gradients():
    block = InceptionBlock(2, 1, 1, 1, 1, 1, 1)
    assert block(torch.ones(1, 2, 1, 1)).shape == (1, 4, 1, 1)
    torch.manual_seed(0)
    block = InceptionBlock(3, 8, 8, 8, 8, 8, 8)
    block(draw(4, 3, 8, 8, dtype=torch.float32)).square().sum().backward()
    assert all((p.grad != 0).any() for p in block.parameters())
    assert sum(isinstance(m, nn.ReLU) for m in block.modules()) == 6


@pytest.mark.bad_input
@pytest.mark.parametrize("i", range(7))
def test_bad_input_widths(i):
    names = ("d_in", "d_1", "d_3_in", "d_3", "d_5_in", "d_5", "d_pool")
    for value, kind in ((0, ValueError), (1.5, TypeError)):
        widths = [2] * 7
        widths[i] = value
        with pytest.raises(kind, match=f"^{names[i]}: expected a whole number >= 1, got {value}"):
            InceptionBlock(*widths)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (torch.ones(1, 4, 5, 5), ValueError),
        (torch.ones(3, 5, 5), ValueError),
        (torch.ones(1, 3, 0, 5), ValueError),
        (torch.ones(1, 3, 5, 5) / 0, ValueError),
        (torch.ones(1, 3, 5, 5, dtype=torch.int64), TypeError),
    ],
)
def test_bad_input_image(x, kind):
    with pytest.raises(kind, match=r"^x: expected "):
        InceptionBlock(3, 1, 1, 1, 1, 1, 1)(x)
