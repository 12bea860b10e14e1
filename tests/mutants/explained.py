"""Why some mutants live: a piece of the changed line, and the reason."""

from typing import Any

SAME = "the same for every input"
LOOKED = "a picture's size, place or colour, which is looked at"
BROWSER = "asked of in a browser, which a round leaves out"
GPU = "asked of on a GPU, which a round has not"
CLOCK = "a margin of time, or when a line is printed: no result depends on it"
PROCESS = "asked of in another process, which a round leaves out"
SITE = "asked of on the built site, which a round leaves out"
KINDS = (SAME, LOOKED, BROWSER, GPU, CLOCK, PROCESS, SITE)
#: (file, a piece of the line as it is, a piece of it as it becomes) → why no test sees it
REASONS: dict[tuple[str, str, str], str] = {
    # the library
    ("perceiver_io.py", "std=0.02, a=-2, b=2", "a="): "cut off a hundred deviations away: " + SAME,
    ("perceiver.py", "std=0.02, a=-2, b=2", "a="): "cut off a hundred deviations away: " + SAME,
    ("ranking.py", "torch.rand_like(tokens) >= self.dropout", "> self.dropout"): (
        "a draw that equals the share has no probability: " + SAME
    ),
    ("ranking_scores.py", "z[y == 0]", "z[y <= 0]"): "y is 0 or 1: " + SAME,
    ("mixer.py", "weight.device, weight.dtype", "block.initial_state(batch_size)"): (
        "a block takes its own parameters' device and dtype, which are the model's: " + SAME
    ),
    ("rotary.py", "type(cos_sin[0]) is Tensor", "cos_sin[1]"): (
        "both are tensors, or both a tracer's: " + SAME
    ),
    ("discretization.py", "near = torch.where(small, z, 0)", "z, -1"): (
        "what is not small is taken from the other branch: " + SAME
    ),
    ("s4.py", "torch.cat([B_bar.real, B_bar.imag], dim=-1)", "dim=+1"): (
        "it has two axes, and the last is axis 1: " + SAME
    ),
    ("decoder.py", "dtype = torch.promote_types(x.dtype", "dtype = x.dtype"): (
        "cosines rounded as the keys are: within what half precision is allowed at 33 positions"
    ),
    ("mamba.py", "inputs, conv = u[", "self.conv1d"): GPU,
    ("mamba.py", "window = torch.cat([past, inputs]", "dim="): GPU,
    ("trapezoid.py", "promote_types(x.dtype", "dtype = x.dtype"): (
        "zeros of half precision meet sums in float32: " + SAME
    ),
    ("explorer.py", "ensure_ascii=False", "ensure_ascii=True"): (
        "the page reads the same letters from either text: " + SAME
    ),
    ("explorer.py", "!= moving", "< moving"): BROWSER,
    ("panel.py", "M4 1h14v11H4z", "not self.bars"): LOOKED,
    ("panel.py", "WIDTH, HEIGHT", ""): LOOKED,
    ("figures.py", "size", "size"): LOOKED,
    ("figures.py", "legend.frameon", ""): LOOKED,
    ("pictures/teaching.py", '": (', '": ('): LOOKED,
    ("pictures/teaching.py", "lean = 10", "lean = "): LOOKED,
    ("pictures/hippo.py", "range(0, 301, 3)", "range(0, 302, 3)"): "in steps of three: " + SAME,
    ("show.py", "tokenize.COMMENT", "is not"): (
        "only the place of a comment beside a cut check, which is looked at"
    ),
    ("panel.py", "words(LEFT - 5,", "LEFT - "): LOOKED,
    ("mamba_triton.py", "convolve_step[triton.cdiv(", "triton.cdiv("): GPU,
    ("baselines.py", "range(1, highest + 1)", "highest + 2"): (
        "grams of one length more, which nobody asks for: " + SAME
    ),
    ("pictures/distributed.py", "if rank == 2 else", "rank >= 2"): "of ranks 0, 1 and 2: " + SAME,
    ("limits.py", "if n * math.log2(kinds) <= bits", "< bits"): (
        "the bisection ends at 1 as well, in float64: " + SAME
    ),
    # the checks
    ("exercises/compression.py", "drawn[:, 20, 0] > 0", "drawn[:, 20, 1]"): (
        "another channel of the same token decides, drawn as the first: as hard to learn"
    ),
    ("exercises/s4.py", "causal_convolution(x.flip(-1), backward).flip(-1)", "flip(+1)"): (
        "it has two axes, and the last is axis 1: " + SAME
    ),
    ("exercises/decoder.py", "v.repeat_interleave(2, dim=-1)", "dim=+1"): (
        "it has two axes, and the last is axis 1: " + SAME
    ),
    ("exercises/limits.py", "one_hot(symbols.long(), 2)", "one_hot(symbols.long(), 3)"): (
        "a third kind that no symbol is, and that is not read: " + SAME
    ),
    ("exercises/discretization.py", "sp.Symbol(name, positive=True)", "positive=False"): (
        "both sides are compared at numbers, and no step needs the sign: " + SAME
    ),
    ("exercises/compression.py", "many = share(10**7, s)", "10**8"): (
        "a share that is nearer to its limit by less than the tolerance; a mask fits neither"
    ),
    ("exercises/scan.py", "(8, 2048, 2048, 16, 2, None)", "(8, 2048, 2047"): (
        "a case that is one step shorter, and asks the same"
    ),
    ("exercises/mamba.py", "// 2 - 1, 10, 4)", "// 2 - 2, 10, 4)"): (
        "a number of parameters smaller by one, on the same side of every edge"
    ),
    ("exercises/scan.py", "for ends in ((9, 999), (2, 99), (2, 20)", "(2, 21)"): (
        "an end of a range, which neither practice nor the graders' first seed draws"
    ),
    ("exercises/duality.py", "right=[library, steps, _by_chunks(8)]", "_by_chunks(9)"): (
        "an implementation by other chunks, which is as right"
    ),
    ("exercises/perceiver_ar.py", "zip(right.items(), got, strict=False)", "strict=True"): (
        "as many were counted above: " + SAME
    ),
    ("exercises/perceiver.py", "cases.integer(4, 7)", "cases.integer(4, 8)"): (
        "an end of a range, which neither practice nor the graders' first seed draws"
    ),
    ("exercises/proof.py", "30)", "31)"): "one digit more of thirty",
    ("exercises/proof.py", "30)", "29)"): "one digit less of thirty",
    ("exercises/verdicts.py", "kind is frozenset", "kind == frozenset"): "of types: " + SAME,
    ("exercises/__init__.py", 'or "none"', "and"): "no exercise is registered: it cannot be asked",
    # the tools
    ("kept.py", "clear_before_next_output = False", "= True"): (
        "a cell that has no outputs yet has none to clear: " + SAME
    ),
    # the experiments
    ("side_by_side.py", "self.step.fill_(1)", "self.step.fill_(2)"): (
        "its line stands twice, so it was not asked again: a GPU that is played sees it since"
    ),
    ("hybrids.py", "runs.config(job, WARMUP, 1", "WARMUP, 2"): (
        "who is trained side by side is evaluated when its caller says: " + SAME
    ),
    ("language_models.py", "torch.Generator().manual_seed(0))", "manual_seed(-1)"): (
        "its line stands twice, so it was not asked again: the seed of what is timed is seen since"
    ),
    ("language_models.py", "else 4096 if name", "4097"): "no length lies between: " + SAME,
    ("recall.py", "S = torch.zeros_like(new[:, :, 0])", "-1]"): (
        "zeros of one size at every step: " + SAME
    ),
    ("perceiver_history.py", "unfold(0, span", "unfold(-1"): "it has one axis: " + SAME,
    ("selective_steps.py", "(targets < 0)", "< -1"): "no answer is −100: " + SAME,
    ("runs.py", "done % 10 == 0", "=="): CLOCK,
    ("stacked.py", "zip(names, grads, strict=True)", "strict=False"): (
        "a gradient for each name: " + SAME
    ),
}


def reason(row: dict[str, Any]) -> str | None:
    """Of a row of results; None where nobody has looked at it."""
    for (file, old, new), why in REASONS.items():
        if row["file"].endswith("/" + file) and old in row["old"] and new in row["new"]:
            return why
    return None
