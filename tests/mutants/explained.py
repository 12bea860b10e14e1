"""Why some mutants live: a piece of the changed line, and the reason."""

from typing import Any

SAME = "the same for every input"
#: (file, a piece of the line as it is, a piece of it as it becomes) → why no test sees it
REASONS: dict[tuple[str, str, str], str] = {
    ("perceiver_io.py", "std=0.02, a=-2, b=2", "a="): "cut off a hundred deviations away: " + SAME,
    ("perceiver.py", "std=0.02, a=-2, b=2", "a="): "cut off a hundred deviations away: " + SAME,
    ("ranking_scores.py", "z[y == 0]", "z[y <= 0]"): "y is 0 or 1: " + SAME,
    ("mixer.py", "weight.device, weight.dtype", "block.initial_state(batch_size)"): (
        "a block takes its own parameters' device and dtype, which are the model's: " + SAME
    ),
    ("build.py", "waiting.extend", "imported("): (
        "seen by test_closure_follows_imports, which shares a fixture with builds and is left out"
    ),
    ("decoder.py", "dtype = torch.promote_types(x.dtype", "dtype = x.dtype"): (
        "cosines rounded as the keys are: within what half precision is allowed at 33 positions"
    ),
    ("explorer.py", "ensure_ascii=False", "ensure_ascii=True"): (
        "the page reads the same letters from either text"
    ),
    ("explorer.py", "!= moving", "< moving"): "asked of in a browser, which a round leaves out",
    ("panel.py", "M4 1h14v11H4z", "not self.bars"): "a picture of a key, which is looked at",
    ("panel.py", "WIDTH, HEIGHT", "381"): "a size of a picture, which is looked at",
    ("show.py", "tokenize.COMMENT", "is not"): (
        "only the place of a comment beside a cut check, which is looked at"
    ),
}


def reason(row: dict[str, Any]) -> str | None:
    """Of a row of results; None where nobody has looked at it."""
    for (file, old, new), why in REASONS.items():
        if row["file"].endswith("/" + file) and old in row["old"] and new in row["new"]:
            return why
    return None
