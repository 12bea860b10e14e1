"""Chapter 08: a tall input and a thin tower, and a matrix that looks first."""

import torch

from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel, written


def tower_drawing() -> Drawing:
    """The input stands beside the latents and is read twice."""
    d = Drawing(
        "A Perceiver",
        "A tall input of n tokens stands on the left. On the right a thin "
        "tower: m learned latents read the input, pass through latent "
        "layers, read the input again and pass through latent layers again; "
        "their mean gives the classes.",
        height=330,
    )
    d.box(46, 178, 56, "*x*", h=244, kind="input")
    d.text(46, 314, "(*n*, *d*_{in})")
    d.text(46, 44, "tokens")
    at = 222
    d.box(at, 302, 104, "latents", h=28, kind="weights")
    d.text(330, 302, "learned", kind="weights")
    for read, layers in ((248, 196), (142, 90)):
        d.box(at, read, 104, "read", h=28)
        d.box(at, layers, 104, "latent layers", h=28)
        d.arrow((74, read), (170, read), label="(*n*, *d*_{in})", side="above")
        d.arrow((at, read + 40), (at, read + 14), label="(*m*, *d*)")
        d.arrow((at, layers + 38), (at, layers + 14), label="(*m*, *d*)")
        d.text(330, read, "*O*(*nm*)")
        d.text(330, layers, "*O*(*m*^2) each")
    d.arrow((at, 76), (at, 50), label="(*m*, *d*)")
    d.box(at, 36, 104, "mean, linear", h=28, kind="weights")
    d.arrow((274, 36), (318, 36))
    d.text(350, 36, "classes")
    return d


def two_matrices_drawing() -> Drawing:
    """W of linear compression, and W(x): learned queries, computed keys."""
    d = Drawing(
        "A constant matrix and one that looks",
        "Above, linear compression: a learned matrix W of shape m by n times "
        "the input. Below, cross-attention: learned queries Q times the keys "
        "of the input give, through a softmax, a matrix W of x of the same "
        "shape, which multiplies the values of the input.",
        height=376,
    )
    for y, name, kind in ((66, "*W*", "weights"), (194, "*W*(*x*)", "input")):
        d.box(40, y, 40, "*y*", h=34, kind="input")
        d.text(40, y - 28, "(*m*, *d*)")
        d.text(76, y, "=", 16)
        d.box(158, y, 130, name, h=34, kind=kind)
        d.text(158, y - 28, "(*m*, *n*)")
        d.text(236, y, "·", 20)
    d.box(272, 66, 44, "*x*", h=100, kind="input")
    d.box(272, 194, 44, "*V*(*x*)", h=100, kind="input", size=12)
    d.text(302, 66, "(*n*, *d*)", anchor="start")
    d.text(302, 194, "(*n*, *d*)", anchor="start")
    d.text(158, 98, "learned, constant", kind="weights")
    d.arrow((158, 284), (158, 212), label="softmax along", at=0.45)
    d.text(165, 268, "the tokens", anchor="start")
    d.box(60, 312, 40, "*Q*", h=34, kind="weights")
    d.text(92, 312, "·", 20)
    d.box(172, 312, 130, "*K*(*x*)^{⊤}", h=40, kind="input")
    d.text(60, 342, "(*m*, *d*)")
    d.text(172, 344, "(*d*, *n*)")
    d.text(60, 362, "learned", kind="weights")
    d.text(248, 304, "computed from", anchor="start", kind="input")
    d.text(248, 320, "the input", anchor="start", kind="input")
    return d


def key_scale_explorer() -> Explorer:
    """Drag the size of the keys: 0 is the mean, a large one picks."""
    generator = torch.Generator().manual_seed(5)
    keys, latents = torch.randn(16, 8, generator=generator), 3
    queries = torch.randn(latents, 8, generator=generator)
    scores = queries @ keys.T / 8**0.5
    scales = [k / 4 for k in range(41)]

    def weights(scale: float) -> torch.Tensor:
        return (scale * scores).softmax(-1)

    def counts(w: torch.Tensor) -> torch.Tensor:
        """As how many even weights they are: exp of the entropy."""
        return torch.special.entr(w).sum(-1).exp()

    along = torch.stack([counts(weights(scale)) for scale in scales])
    inks = ("blue", "orange", "green")

    def frame(scale: float) -> Frame:
        w = weights(scale)
        return Frame(
            {"weights": w[0]},
            {"largest": written(w[0].max()), "like": written(counts(w)[0], 1)},
            cursor=scale,
        )

    return Explorer(
        "key-scale-explorer",
        "Bars of the weights that one latent gives to sixteen tokens, and how "
        "many tokens three latents read, against the size of the keys.",
        [Slider("scale", "keys times", scales, start=4, form="{:.2f}")],
        [
            Panel(
                "token",
                "weight in the first row of *W*(*x*)",
                (0, 16),
                (0, 1),
                {"weights": Curve("blue", bars=True)},
                x_ticks={0.5: "1", 7.5: "8", 15.5: "16"},
                y_ticks={0: "0", 0.5: "½", 1: "1"},
            ),
            Panel(
                "keys times",
                "as many tokens as are read evenly",
                (0, 10),
                (0, 16),
                {
                    f"latent{i}": Curve(
                        ink, f"row {i + 1}", dash, ys=along[:, i]
                    )
                    for i, (ink, dash) in enumerate(
                        zip(inks, ("", "7 4", "2 3"), strict=True)
                    )
                },
                x_ticks={0: "0", 5: "5", 10: "10"},
                y_ticks={0: "0", 8: "8", 16: "16"},
                cursor=True,
            ),
        ],
        frame,
        "<p>The largest weight is {largest}; the row reads like an even mean "
        "of {like} tokens.</p>",
    )
