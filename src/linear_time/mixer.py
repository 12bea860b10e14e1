"""The frame of every sequence model: mixer, residual block, language model.

Chapter 15 uses it first. A mixer moves information along a sequence. It has a
parallel form, for training, and a recurrent form, for generation, and both
compute the same function. A block is a mixer that owns its norm and residual.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linear_time import _validate

State = Any  # whatever a mixer carries from step to step


class SequenceMixer(nn.Module):
    """A causal layer with a parallel and a recurrent form.

    A subclass defines ``forward``, ``initial_state`` and ``step`` such that

        state = mixer.initial_state(batch_size)
        y_t, state = mixer.step(x[:, t], state)   for t = 0, 1, …

    gives the rows of ``mixer(x)``.

    Args:
        d_model: width of the input and of the output.

    Raises:
        TypeError, ValueError: d_model is not a whole number ≥ 1.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        _validate.count("d_model", d_model)
        self.d_model = d_model

    def forward(
        self, x: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """All positions at once."""
        raise NotImplementedError

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

    def check_input(self, x: Tensor, name: str = "x") -> None:
        """Refuse an input that is not (batch, length, d_model).

        ``name="x_t"`` asks for a step's input, (batch, d_model). A whole
        sequence must be finite as well; a step, the inner loop of
        generation, is not searched for that.

        Raises:
            TypeError: not a floating-point tensor.
            ValueError: another shape, or a value that is not finite.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(
                f"{name}: expected a floating-point tensor, "
                f"got {_validate.describe(x)}"
            )
        words = ("batch", "length") if name == "x" else ("batch",)
        fits = x.ndim == len(words) + 1 and x.shape[-1] == self.d_model
        if not fits or 0 in x.shape:
            raise ValueError(
                f"{name}: expected shape "
                f"{_validate.shape_text((*words, self.d_model))} without "
                f"empty dimensions, got {_validate.describe(x)}"
            )
        if name == "x":
            _validate.finite(name, x)


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
        self, x: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        self.check_input(x)
        return x + self.mixer(self.norm(x))

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


class LanguageModel(nn.Module):
    """Embedding, a stack of blocks, a norm, and the embedding once more.

    logits = norm(block_n(… block_1(E[tokens]))) Eᵀ.

    Args:
        block: makes one block, called as ``block()`` n_layer times.
        vocab_size: number of tokens.
        d_model: width of the blocks.
        n_layer: number of blocks.

    Raises:
        ValueError: a block's width is not d_model, or a size is below 1.
    """

    def __init__(
        self,
        block: Callable[[], SequenceMixer],
        vocab_size: int,
        d_model: int,
        n_layer: int,
    ) -> None:
        super().__init__()
        _validate.count("vocab_size", vocab_size)
        _validate.count("d_model", d_model)
        _validate.count("n_layer", n_layer)
        self.embedding = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks: Any = nn.ModuleList(_blocks(block, d_model, n_layer))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)

    def forward(
        self, tokens: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length vocab_size"]:
        """The logits of the next token at every position.

        Raises:
            ValueError: tokens are not (batch, length) integers of the
                vocabulary.
        """
        self._check_tokens("tokens", tokens, ("batch", "length"))
        x = self.embedding(tokens)  # (batch, length, d_model)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embedding.weight.T

    def initial_state(self, batch_size: int) -> list[State]:
        """The state of each block, before the first token."""
        weight = self.embedding.weight
        return [
            block.initial_state(batch_size, weight.device, weight.dtype)
            for block in self.blocks
        ]

    def step(
        self, token: Int[Tensor, " batch"], state: list[State]
    ) -> tuple[Float[Tensor, "batch vocab_size"], list[State]]:
        """One token: the logits of the next, and the new states.

        Raises:
            ValueError: the tokens are not (batch,) integers of the
                vocabulary, or the state is not one of this many blocks.
        """
        self._check_tokens("token", token, ("batch",))
        x = self.embedding(token)  # (batch, d_model)
        new_state = []
        for block, block_state in zip(self.blocks, state, strict=True):
            x, block_state = block.step(x, block_state)
            new_state.append(block_state)
        return self.norm(x) @ self.embedding.weight.T, new_state

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch prompt"],
        n: int,
        temperature: float | int = 1.0,
        seed: int = 0,
    ) -> Int[Tensor, "batch total"]:
        """Continue a prompt by n tokens, one ``step`` each.

        Args:
            prompt: token ids (batch, length), length ≥ 1.
            n: how many tokens to add.
            temperature: divides the logits; 0 takes the likeliest token.
            seed: of the sampling.

        Returns:
            Prompt and continuation, (batch, length + n).

        Raises:
            ValueError: prompt, n or temperature is not as above.
        """
        self._check_tokens("prompt", prompt, ("batch", "length"))
        state = self.initial_state(len(prompt))
        for token in prompt.unbind(1):
            logits, state = self.step(token, state)
        return self._continue(prompt, logits, state, n, temperature, seed)

    def _continue(
        self,
        prompt: Tensor,
        logits: Tensor,
        state: list[State],
        n: int,
        temperature: float | int,
        seed: int,
    ) -> Tensor:
        """A prompt and n more tokens, from what is known after the prompt."""
        _validate.count("n", n)
        _validate.number("temperature", temperature, above=0, or_equal=True)
        generator = torch.Generator(prompt.device).manual_seed(seed)
        tokens = [prompt]
        for i in range(n):
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                # The largest logit becomes 0: no temperature overflows.
                logits = logits - logits.max(dim=-1, keepdim=True).values
                weights = torch.softmax(logits / temperature, dim=-1)
                token = torch.multinomial(weights, 1, generator=generator)[:, 0]
            tokens.append(token[:, None])
            if i < n - 1:
                logits, state = self.step(token, state)
        return torch.cat(tokens, dim=1)

    def _check_tokens(
        self, name: str, tokens: Tensor, words: tuple[str, ...]
    ) -> None:
        vocab_size = self.embedding.num_embeddings
        wanted = (
            f"int64 or int32 of shape {_validate.shape_text(words)}, not "
            f"empty, in 0 … {vocab_size - 1}"
        )
        fits = (
            isinstance(tokens, Tensor)
            and tokens.dtype in (torch.int64, torch.int32)
            and tokens.ndim == len(words)
            and tokens.numel() > 0
        )
        if not fits:
            raise ValueError(
                f"{name}: expected {wanted}, got {_validate.describe(tokens)}"
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"{name}: expected {wanted}, got values from {low} to {high}"
            )


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
        _validate.count("d_in", d_in)
        _validate.count("n_classes", n_classes)
        _validate.count("d_model", d_model)
        _validate.count("n_layer", n_layer)
        _validate.one_of("read", read, ("mean", "last"))
        self.embedding = nn.Linear(d_in, d_model)
        self.blocks: Any = nn.ModuleList(_blocks(block, d_model, n_layer))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.head = nn.Linear(d_model, n_classes)
        self.read = read

    def forward(
        self, x: Float[Tensor, "batch length d_in"]
    ) -> Float[Tensor, "batch n_classes"]:
        """The logits of each sequence.

        Raises:
            ValueError: x is not (batch, length, d_in).
        """
        if x.ndim != 3 or x.shape[-1] != self.embedding.in_features:
            raise ValueError(
                "x: expected shape (batch, length, "
                f"{self.embedding.in_features}), got {_validate.describe(x)}"
            )
        x = self.embedding(x)  # (batch, length, d_model)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        r = x.mean(1) if self.read == "mean" else x[:, -1]  # (batch, d_model)
        logits: Tensor = self.head(r)
        return logits


def _blocks(
    block: Callable[[], SequenceMixer], d_model: int, n_layer: int
) -> list[SequenceMixer]:
    made = [block() for _ in range(n_layer)]
    for one in made:
        if one.d_model != d_model:
            raise ValueError(
                f"block: expected blocks of width {d_model}, got {one.d_model}"
            )
    return made
