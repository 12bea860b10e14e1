"""The frame of every sequence model: mixer, block, language model.

Chapter 01 uses it first. A mixer moves information along a sequence. It has a
parallel form, for training, and a recurrent form, for generation, and both
compute the same function. A block is a mixer that owns its norm and residual.

**The contract of a layer**, which ``tests/test_contract.py`` holds every
layer, model and scan of the package to:

* *Forms.* ``forward`` = ``prefill`` = ``step`` after ``step``, and causal.
* *Precision.* float64, float32, bfloat16, float16 and autocast run, forward,
  backward and step. Recurrences, norms, sums of a softmax, kernels and angles
  are at least float32 inside (``full``) and cast last. A recurrent state is
  never below float32, nor are parameters registered with ``exact``.
* *Derivatives.* A second derivative is right, or refused by an error.
* *States.* A state holds, and saves, the numbers that it counts and no more.
  What a step needs and does not change is made once. A step leaves the state
  that it was given as it was.
* *Padding.* Padding at the left changes nothing where ``mask`` says so; what
  takes no mask refuses one.
* *Checks.* Types and shapes always; values by the outermost call, unless
  ``linear_time.checks(values=False)``. With that, ``torch.compile`` and
  ``torch.export`` take every layer without a loop that depends on data.
* *Sizes and devices.* Any size from 1, any strides; nothing needs float64 on
  the device of its input.
* *Decay.* Which parameters an optimizer decays is known by their module
  (``parameter``), so that copies and casts of a model know it too.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from linear_time import _validate
from linear_time.layer import Layer, full

State = Any  # whatever a mixer carries from step to step


class SequenceMixer(Layer):
    """A causal layer with a parallel and a recurrent form.

    A subclass defines ``initial_state``, ``step`` and ``forward`` such that

        state = mixer.initial_state(batch_size)
        y_t, state = mixer.step(x[:, t], state)   for t = 0, 1, …

    gives the rows of ``mixer(x)``. One that can read a prompt faster than
    step by step, or that takes padding, defines ``prefill`` in place of
    ``forward``, or beside it.

    Args:
        d_model: width of the input and of the output.

    Raises:
        TypeError, ValueError: d_model is not a whole number ≥ 1.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = _validate.count("d_model", d_model)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """All positions at once; the mask as for ``prefill``."""
        return self.prefill(x, mask=mask)[0]

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """What ``step`` carries, before the first step."""
        raise NotImplementedError

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State
    ) -> tuple[Float[Tensor, "batch d_model"], State]:
        """One position: its output and the state after it."""
        raise NotImplementedError

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        """All positions of a prompt, and the state after the last.

        Here step by step; a subclass has its parallel form where there is
        one.

        Args:
            x: (batch, length, d_model).
            state: what came before; nothing if None.
            mask: False where a shorter row of the batch is padded, which
                must be at its left; (batch, length). No padding if None.
                Padding at the right needs no mask: nothing reads it, except
                the state that is returned.

        Returns:
            (y, state): (batch, length, d_model), and for ``step``. What y
            is on padding means nothing.

        Raises:
            TypeError, ValueError: an argument is not as above, or this layer
                takes no mask.
        """
        self.check_input(x)
        self.refuse_mask(mask)
        if state is None:
            state = self.initial_state(len(x), x.device, x.dtype)
        outputs = []
        with _validate.inner():
            for x_t in x.unbind(1):
                y_t, state = self.step(x_t, state)
                outputs.append(y_t)
        return torch.stack(outputs, dim=1), state

    def check_input(self, x: Tensor, name: str = "x") -> None:
        """Refuse an input that is not (batch, length, d_model).

        ``name="x_t"`` asks for a step's input, (batch, d_model). A whole
        sequence must be finite as well; a step, the inner loop of
        generation, is not searched for that.

        Raises:
            TypeError: not a floating-point tensor.
            ValueError: another shape, or a value that is not finite.
        """
        if name == "x":
            _validate.layout(name, x, "batch", "length", self.d_model)
        else:
            with _validate.inner():
                _validate.layout(name, x, "batch", self.d_model)

    def check_mask(self, mask: Tensor | None, x: Tensor) -> None:
        """Refuse a mask that is not padding at the left of x, or None.

        Raises:
            TypeError, ValueError: not boolean, not (batch, length) of x, or
                False after a True.
        """
        if mask is not None:
            _validate.left_padding("mask", mask, tuple(x.shape[:2]))

    def refuse_mask(self, mask: Tensor | None) -> None:
        """Say that this layer takes no padding, where a mask is given."""
        if mask is not None:
            raise ValueError(
                f"mask: expected None, since {type(self).__name__} takes no "
                f"padding, got {_validate.describe(mask)}"
            )


class Residual(SequenceMixer):
    """A block from a mixer: y = x + mixer(norm(x)).

    Args:
        mixer: what mixes.
        norm: a layer on (…, d_model); RMS normalisation with ε = 1e-5 if
            None.

    Source: Gu & Dao (2023), "Mamba", whose block has one mixer and one
        residual; a Transformer's block has two.
    """

    def __init__(
        self, mixer: SequenceMixer, norm: nn.Module | None = None
    ) -> None:
        super().__init__(mixer.d_model)
        if norm is None:
            norm = nn.RMSNorm(mixer.d_model, eps=1e-5)
        self.norm = norm
        self.mixer = mixer

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        self.check_input(x)
        self.check_mask(mask, x)
        with _validate.inner():
            return x + mix(self.mixer, self.norm(x), mask)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        return self.mixer.initial_state(batch_size, device, dtype)

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State
    ) -> tuple[Float[Tensor, "batch d_model"], State]:
        self.check_input(x_t, "x_t")
        y_t, state = self.mixer.step(self.norm(x_t), state)
        return x_t + y_t, state

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], State]:
        self.check_input(x)
        self.check_mask(mask, x)
        with _validate.inner():
            y, state = self.mixer.prefill(self.norm(x), state, mask)
        return x + y, state


def mix(mixer: SequenceMixer, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """``mixer(x)``, with the mask where there is one."""
    y: Tensor = mixer(x) if mask is None else mixer(x, mask)
    return y


class LanguageModel(nn.Module):
    """Embedding, a stack of blocks, a norm, and a head.

    logits = norm(block_n(… block_1(E[tokens]))) Hᵀ, with H = E where the head
    is tied to the embedding.

    Args:
        block: makes one block, called as ``block()`` n_layer times.
        vocab_size: number of tokens.
        d_model: width of the blocks.
        n_layer: number of blocks.
        tied: whether the embedding is the head as well; else the head is a
            matrix of its own, (vocab_size, d_model).
        eps: of the last norm.
        rows: of the embedding and the head, ≥ vocab_size, where a matrix is
            filled up to a round number: such rows are no tokens, and are
            never sampled. vocab_size if None.

    Raises:
        ValueError: a block's width is not d_model, or a size is below 1.
    """

    def __init__(
        self,
        block: Callable[[], SequenceMixer],
        vocab_size: int,
        d_model: int,
        n_layer: int,
        tied: bool = True,
        eps: float | int = 1e-5,
        rows: int | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = _validate.count("vocab_size", vocab_size)
        d_model = _validate.count("d_model", d_model)
        n_layer = _validate.count("n_layer", n_layer)
        _validate.number("eps", eps)
        rows = (
            self.vocab_size if rows is None else _validate.count("rows", rows)
        )
        if rows < self.vocab_size:
            raise ValueError(
                f"rows: expected at least vocab_size = {vocab_size}, got {rows}"
            )
        self.embedding = nn.Embedding(rows, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks: Any = nn.ModuleList(stack(block, d_model, n_layer))
        self.norm = nn.RMSNorm(d_model, eps=float(eps))
        self.head: nn.Linear | None = None
        if not tied:
            self.head = nn.Linear(d_model, rows, bias=False)
            nn.init.normal_(self.head.weight, std=0.02)

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length rows"]:
        """The logits of the next token at every position.

        Args:
            tokens: (batch, length).
            mask: False where a shorter row is padded at its left. The logits
                on padding mean nothing.

        Raises:
            TypeError, ValueError: tokens are not (batch, length) integers of
                the vocabulary; the mask does not fit, or a block takes none.
        """
        self.check_tokens("tokens", tokens, ("batch", "length"))
        self.check_mask(mask, tokens)
        x = self.embedding(tokens)  # (batch, length, d_model)
        with _validate.inner():
            for block in self.blocks:
                x = mix(block, x, mask)
        return self.logits(x)

    def initial_state(self, batch_size: int) -> list[State]:
        """The state of each block, before the first token."""
        weight = self.embedding.weight
        return [
            block.initial_state(batch_size, weight.device, weight.dtype)
            for block in self.blocks
        ]

    def step(
        self, token: Int[Tensor, " batch"], state: list[State]
    ) -> tuple[Float[Tensor, "batch rows"], list[State]]:
        """One token: the logits of the next, and the new states.

        Raises:
            ValueError: the tokens are not (batch,) integers of the
                vocabulary, or the state is not one of this many blocks.
        """
        self.check_tokens("token", token, ("batch",))
        self.check_state(state)
        x = self.embedding(token)  # (batch, d_model)
        new_state = []
        with _validate.inner():
            for block, block_state in zip(self.blocks, state, strict=True):
                x, block_state = block.step(x, block_state)
                new_state.append(block_state)
        return self.logits(x), new_state

    def prefill(
        self,
        tokens: Int[Tensor, "batch length"],
        state: list[State] | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch rows"], list[State]]:
        """Read a prompt: the logits after it, and the states.

        Equal to one ``step`` after the other. A block with a parallel form
        of ``prefill`` reads the prompt at the cost of one forward pass.

        Args:
            tokens: (batch, length).
            state: what came before; nothing if None.
            mask: as for ``forward``.

        Raises:
            TypeError, ValueError: as ``forward``; the state is not one of
                this many blocks.
        """
        self.check_tokens("tokens", tokens, ("batch", "length"))
        self.check_mask(mask, tokens)
        before = [None] * len(self.blocks) if state is None else state
        self.check_state(before)
        x = self.embedding(tokens)  # (batch, length, d_model)
        after = []
        with _validate.inner():
            for block, block_state in zip(self.blocks, before, strict=True):
                x, block_state = block.prefill(x, block_state, mask)
                after.append(block_state)
        return self.logits(x[:, -1]), after

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch prompt"],
        n: int,
        temperature: float | int = 1.0,
        seed: int = 0,
        mask: Bool[Tensor, "batch prompt"] | None = None,
    ) -> Int[Tensor, "batch total"]:
        """Continue a prompt by n tokens: one ``prefill``, and a ``step`` each.

        Args:
            prompt: token ids (batch, length), length ≥ 1.
            n: how many tokens to add.
            temperature: divides the logits; 0 takes the likeliest token.
            seed: of the sampling.
            mask: False where a shorter prompt is padded at its left.

        Returns:
            Prompt and continuation, (batch, length + n).

        Raises:
            TypeError, ValueError: an argument is not as above, or a block
                takes no padding.
        """
        self.check_tokens("prompt", prompt, ("batch", "length"))
        _validate.count("n", n)
        _validate.number("temperature", temperature, above=0, or_equal=True)
        seed = _validate.seed("seed", seed)
        generator = torch.Generator(prompt.device).manual_seed(seed)
        logits, state = self.prefill(prompt, None, mask)
        tokens = [prompt]
        for i in range(n):
            token = self.sample(logits, temperature, generator)
            tokens.append(token[:, None])
            if i < n - 1:
                logits, state = self.step(token, state)
        return torch.cat(tokens, dim=1)

    def sample(
        self,
        logits: Float[Tensor, "batch rows"],
        temperature: float | int,
        generator: torch.Generator,
    ) -> Int[Tensor, " batch"]:
        """A token of the vocabulary for each row, at a temperature ≥ 0."""
        logits = logits[:, : self.vocab_size]
        if temperature == 0:
            return logits.argmax(-1)
        # The largest logit becomes 0: no temperature overflows.
        logits = full(logits)
        logits = logits - logits.max(dim=-1, keepdim=True).values
        weights = torch.softmax(logits / temperature, dim=-1)
        return torch.multinomial(weights, 1, generator=generator)[:, 0]

    def logits(self, x: Float[Tensor, "*batch d_model"]) -> Tensor:
        """The head on what the blocks made, (…, rows)."""
        x = self.norm(x)
        weight = (
            self.embedding.weight if self.head is None else self.head.weight
        )
        return nn.functional.linear(x, weight)

    def check_tokens(
        self, name: str, tokens: Tensor, words: tuple[str, ...]
    ) -> None:
        """Refuse what is not tokens of the vocabulary, of this shape."""
        _validate.tokens(name, tokens, words, self.vocab_size)

    def check_state(self, state: Any) -> None:
        """Refuse what is not a list with the state of every block."""
        fits = isinstance(state, (list, tuple))
        if not fits or len(state) != len(self.blocks):
            got = f"{len(state)}" if fits else _validate.describe(state)
            raise ValueError(
                f"state: expected a list of {len(self.blocks)}, one for each "
                f"block, got {got}"
            )

    def check_mask(self, mask: Tensor | None, tokens: Tensor) -> None:
        """Refuse a mask that is not padding at the left of the tokens."""
        if mask is not None:
            _validate.left_padding("mask", mask, tuple(tokens.shape))


class SequenceClassifier(nn.Module):
    """A class for a whole sequence: the frame of ``LanguageModel``, one read.

    logits = W r + b, with r a read of norm(block_n(… block_1(V x_t + v))):
    its mean over the positions, or its value at the last one.

    Args:
        block: makes one block, called as ``block()`` n_layer times.
        d_in: width of the input.
        n_classes: number of classes.
        d_model: width of the blocks.
        n_layer: number of blocks.
        read: "mean" or "last".

    Raises:
        ValueError: a block's width is not d_model, a size is below 1, or the
            read is unknown.
    """

    def __init__(
        self,
        block: Callable[[], SequenceMixer],
        d_in: int,
        n_classes: int,
        d_model: int,
        n_layer: int,
        read: str = "mean",
    ) -> None:
        super().__init__()
        d_in = _validate.count("d_in", d_in)
        n_classes = _validate.count("n_classes", n_classes)
        d_model = _validate.count("d_model", d_model)
        n_layer = _validate.count("n_layer", n_layer)
        _validate.one_of("read", read, ("mean", "last"))
        self.embedding = nn.Linear(d_in, d_model)
        self.blocks: Any = nn.ModuleList(stack(block, d_model, n_layer))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.head = nn.Linear(d_model, n_classes)
        self.read = read

    def forward(
        self,
        x: Float[Tensor, "batch length d_in"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch n_classes"]:
        """The logits of each sequence.

        Args:
            x: (batch, length, d_in).
            mask: False where a shorter row is padded at its left: no
                position of padding is read.

        Raises:
            TypeError, ValueError: x is not (batch, length, d_in); the mask
                does not fit, or a block takes none.
        """
        d_in = self.embedding.in_features
        _validate.layout("x", x, "batch", "length", d_in)
        if mask is not None:
            _validate.left_padding("mask", mask, tuple(x.shape[:2]))
        x = self.embedding(x)  # (batch, length, d_model)
        with _validate.inner():
            for block in self.blocks:
                x = mix(block, x, mask)
        x = self.norm(x)
        if self.read == "last":
            r = x[:, -1]  # (batch, d_model)
        elif mask is None:
            r = x.mean(1)
        else:
            real = mask[..., None]
            r = x.masked_fill(~real, 0).sum(1) / real.sum(1)
        logits: Tensor = self.head(r)
        return logits


def stack(
    block: Callable[[], SequenceMixer], d_model: int, n_layer: int
) -> list[SequenceMixer]:
    """n_layer blocks of width d_model, each made anew."""
    made = [block() for _ in range(n_layer)]
    for one in made:
        if one.d_model != d_model:
            raise ValueError(
                f"block: expected blocks of width {d_model}, got {one.d_model}"
            )
    return made
