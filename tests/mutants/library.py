"""Bugs of the library: what a later step mends, what is shared, not handed on, or only rounding."""

(MIXER, PERCEIVER, IO, RECURRENT, S4, SELECTIVE, MAMBA, DECODER, ATTENTION, LAYER, TASKS) = (
    f"src/linear_time/{name}.py"
    for name in (
        *("mixer", "perceiver", "perceiver_io", "recurrent", "s4", "selective", "mamba"),
        *("decoder", "attention", "layer", "tasks"),
    )
)
TRAINING, CACHE, FUNCTION = (
    f"src/linear_time/{name}.py" for name in ("training", "cache", "scan_function")
)

HYBRID = "src/linear_time/hybrid.py"

MUTANTS = [
    # hybrids
    (HYBRID, "last.weight.data /= n**0.5", "last.weight.data /= 1", "the depth is not heard"),
    (
        HYBRID,
        "offset = one_in - 1 if offset is None else offset",
        "offset = one_in // 2 if offset is None else offset",
        "the layer that attends stands in the middle of a period",
    ),
    (
        HYBRID,
        '("a" if i % one_in == offset else rest) + after',
        '"a" if i % one_in == offset else rest + after',
        "no MLP behind a layer that attends",
    ),
    (
        HYBRID,
        "cache += length * sum(map(size, one))",
        "cache += (length - 1) * sum(map(size, one))",
        "the newest position is not counted",
    ),
    (
        HYBRID,
        "recurrent += sum(map(size, state))",
        "recurrent += sum(map(size, state[-1:]))",
        "the window of the convolution is not counted",
    ),
    (
        HYBRID,
        "lambda part: part.nbytes",
        "lambda part: 4 * part.numel()",
        "bytes of float32, whatever is held",
    ),
    (
        HYBRID,
        "return Residual(layer, nn.RMSNorm(d_model, eps=float(eps)))",
        "return Residual(layer)",
        "ε is not handed on to the blocks",
    ),
    (
        HYBRID,
        "super().__init__(block, vocab_size, d_model, n, tied, eps)",
        "super().__init__(block, vocab_size, d_model, n, tied)",
        "ε is not handed on to the last norm",
    ),
    (
        HYBRID,
        "return self.mlp(x_t), state",
        "return self.mlp(x_t), (x_t,)",
        "an MLP remembers its input",
    ),
    (
        HYBRID,
        'best = rows.chosen("validation")',
        'best = rows.chosen("test")',
        "the rate is chosen by the test",
    ),
    # the first state
    (
        LAYER,
        "        dtype=torch.promote_types(dtype, torch.float32),\n    )",
        "        dtype=dtype,\n    )",
        "a state starts in half precision",
    ),
    (
        LAYER,
        "dtype = like.dtype if dtype is None else dtype",
        "dtype = torch.float32 if dtype is None else dtype",
        "a state starts in float32 where the layer is float64",
    ),
    (
        LAYER,
        "device=like.device if device is None else device,",
        "device=device,",
        "a state starts on the CPU where the layer is elsewhere",
    ),
    (
        LAYER,
        "dtype = like.dtype if dtype is None else dtype",
        "dtype = like.dtype",
        "the dtype asked for is not heard",
    ),
    (
        MIXER,
        "return self.mixer.initial_state(batch_size, device, dtype)",
        "return self.mixer.initial_state(batch_size)",
        "a block does not hand device and dtype on",
    ),
    (
        MIXER,
        "block.initial_state(batch_size, weight.device, weight.dtype)",
        "block.initial_state(batch_size)",
        "nothing: a block takes its own parameters' device and dtype, which are the same",
    ),
    (
        DECODER,
        "weight.dtype if dtype is None else dtype,",
        "torch.float32 if dtype is None else dtype,",
        "a cache starts in float32 where the layer is float64",
    ),
    (
        ATTENTION,
        "weight.device if device is None else device,",
        'torch.device("cpu") if device is None else device,',
        "a cache starts on the CPU",
    ),
    (
        DECODER,
        "return self.attention.initial_state(batch_size, device, dtype)",
        "return self.attention.initial_state(batch_size)",
        "a block does not hand device and dtype on",
    ),
    (
        RECURRENT,
        "weight, batch_size, self.d_model, device=device, dtype=dtype",
        "weight, batch_size, self.d_model, device=device",
        "the dtype asked for is not heard",
    ),
    (
        MAMBA,
        "self.D, batch_size, self.d_inner, n, device=device, dtype=dtype",
        "self.D, 1, self.d_inner, n, device=device, dtype=dtype",
        "one state for the whole batch",
    ),
    (
        MAMBA,
        "window[..., 1:].clone(), h)",
        "window[..., 1:], h)",
        "a state keeps one more column than it counts",
    ),
    (
        SELECTIVE,
        "return kept.to(before.dtype, copy=True)",
        "return kept.to(before.dtype)",
        "a state keeps the whole prompt",
    ),
    # gradients, graphs
    (
        MIXER,
        "    @torch.no_grad()\n    def generate(",
        "    def generate(",
        "generation keeps the graph of every step",
    ),
    (
        TASKS,
        "@torch.no_grad()\ndef accuracy(",
        "def accuracy(",
        "a metric keeps a graph",
    ),
    (
        RECURRENT,
        "@torch.no_grad()\ndef jacobian_product_norms(",
        "def jacobian_product_norms(",
        "norms keep a graph",
    ),
    (
        TRAINING,
        "            with torch.no_grad():\n                metric",
        "            with torch.enable_grad():\n                metric",
        "an evaluation keeps a graph",
    ),
    (
        TRAINING,
        "metric = _agreed(evaluate(model.eval()), world, device)",
        "metric = _agreed(evaluate(model), world, device)",
        "dropout is on while a model is evaluated",
    ),
    (
        TRAINING,
        "    model.train(was_training)\n",
        "",
        "a model that was in eval mode is left in training mode",
    ),
    (
        TRAINING,
        "        model.train()\n        terms",
        "        terms",
        "after the first evaluation a model is trained in eval mode",
    ),
    (
        FUNCTION,
        "torch.zeros(shape, dtype=dtype, device=device) if x is None else x",
        "torch.zeros(shape, dtype=dtype, device=device) if x is None else x.mul_(1.5).div_(1.5)",
        "the incoming gradient is written to",
    ),
    # what is shared
    (
        LAYER,
        "value = value.detach().clone().to(dtype)",
        "value = value.detach().to(dtype)",
        "under another default dtype parameters share the memory of a table",
    ),
    (
        MIXER,
        "made = [block() for _ in range(n_layer)]",
        "made = [block()] * n_layer",
        "one block, n_layer times",
    ),
    (
        MIXER,
        "made = [block() for _ in range(n_layer)]",
        "first = block()\n    made = [__import__('copy').deepcopy(first) for _ in range(n_layer)]",
        "all blocks start alike",
    ),
    (
        PERCEIVER,
        "self.stacks: Any = nn.ModuleList(stack() for _ in range(stacks))",
        "self.stacks: Any = nn.ModuleList([stack()] * stacks)",
        "latent layers share their weights where they should not",
    ),
    (
        PERCEIVER,
        "crosses, stacks = min(n_cross, 2), 1",
        "crosses, stacks = 1, 1",
        "the first cross-attend has no weights of its own",
    ),
    (
        DECODER,
        "self.mlp_norm = RMSNorm(d_model, eps)",
        "self.mlp_norm = self.attention_norm",
        "two norms share their scale",
    ),
    (
        PERCEIVER,
        "self.mlp_norm = nn.LayerNorm(d_model)",
        "self.mlp_norm = self.norm",
        "two norms share their scale",
    ),
    (
        DECODER,
        "        self.up = nn.Linear(d_model, d_ff, bias=False)\n",
        "        self.up = self.gate\n",
        "gate and value of the MLP are one matrix",
    ),
    (
        MIXER,
        "if not tied:",
        "if tied:",
        "tied and untied are exchanged",
    ),
    # what a wrapper hands on
    (
        PERCEIVER,
        "self.head(self.perceiver(x, key_mask).mean(1))",
        "self.head(self.perceiver(x).mean(1))",
        "a classifier forgets the mask",
    ),
    (
        PERCEIVER,
        "z = self.cross[min(i, len(self.cross) - 1)](z, x, key_mask)",
        "z = self.cross[min(i, len(self.cross) - 1)](z, x)",
        "a Perceiver forgets the mask",
    ),
    (
        PERCEIVER,
        "d_latent, n_cross_heads, d_in, d_in, d_in, widening",
        "d_latent, n_cross_heads, d_in, d_in, d_in",
        "the cross-attends forget the widening",
    ),
    (
        PERCEIVER,
        "CrossAttention(d_latent, n_heads, widening=widening)",
        "CrossAttention(d_latent, n_heads)",
        "the latent layers forget the widening",
    ),
    (
        PERCEIVER,
        "CrossAttention(d_latent, n_heads, widening=widening)",
        "CrossAttention(d_latent, n_cross_heads, widening=widening)",
        "the heads of the other kind of layer",
    ),
    (
        PERCEIVER,
        "MultiHeadAttention(d_model, n_heads, d_kv, d_qk, d_v)",
        "MultiHeadAttention(d_model, n_heads, d_kv, d_qk)",
        "the width of values is not handed on",
    ),
    (
        PERCEIVER,
        "read = self.attention(asks, answers, key_mask=key_mask)",
        "read = self.attention(asks, answers)",
        "a block forgets the mask",
    ),
    (
        PERCEIVER,
        "return attention_weights(q, k, mask).to(q.dtype)",
        "return attention_weights(q, k).to(q.dtype)",
        "the weights that are shown forget the mask",
    ),
    (
        IO,
        "z: Tensor = self.encoder(latents, x, key_mask)",
        "z: Tensor = self.encoder(latents, x)",
        "PerceiverIO forgets the mask",
    ),
    (
        IO,
        "            query_residual=query_residual,\n        )\n        self.head: nn.Module",
        "        )\n        self.head: nn.Module",
        "the decoder forgets whether queries are added",
    ),
    (
        IO,
        "y = self.io(x, queries, key_mask)",
        "y = self.io(x, queries)",
        "a language model forgets the mask",
    ),
    (
        IO,
        "self.io = PerceiverIO(d_model, d_query=d_model, **io)",
        'self.io = PerceiverIO(d_model, d_query=d_model, **{k: v for k, v in io.items() if k != "widening"})',
        "an option is not handed on",
    ),
    (
        IO,
        "            d_latent if d_query_v is None else d_query_v,\n",
        "            d_latent,\n",
        "an option is not handed on",
    ),
    (
        IO,
        "where = fourier_features(points, self.n_bands, self.max_frequency)",
        "where = fourier_features(points, self.n_bands, 224)",
        "the highest frequency is not handed on",
    ),
    (
        MIXER,
        "y: Tensor = mixer(x) if mask is None else mixer(x, mask)",
        "y: Tensor = mixer(x)",
        "blocks forget the mask",
    ),
    (
        MIXER,
        "y, state = self.mixer.prefill(self.norm(x), state, mask)",
        "y, state = self.mixer.prefill(self.norm(x), state)",
        "a prompt's padding is read",
    ),
    (
        MIXER,
        "logits, state = self.prefill(prompt, None, mask)",
        "logits, state = self.prefill(prompt)",
        "a prompt's padding is read in generation",
    ),
    (
        MIXER,
        "self.norm = nn.RMSNorm(d_model, eps=float(eps))",
        "self.norm = nn.RMSNorm(d_model, eps=1e-5)",
        "the last norm forgets its ε",
    ),
    (
        MIXER,
        "logits = logits[:, : self.vocab_size]",
        "logits = logits[:]",
        "rows that are no tokens are sampled",
    ),
    (
        MIXER,
        "r = x.masked_fill(~real, 0).sum(1) / real.sum(1)",
        "r = x.masked_fill(~real, 0).mean(1)",
        "the mean counts the padding",
    ),
    (
        DECODER,
        "            d_model, n_heads, n_kv_heads, base, d_head\n",
        "            d_model, n_heads, n_kv_heads, d_head=d_head\n",
        "a block forgets the base of its angles",
    ),
    (
        DECODER,
        "self.attention_norm = RMSNorm(d_model, eps)",
        "self.attention_norm = RMSNorm(d_model)",
        "a block forgets its ε",
    ),
    (
        DECODER,
        "return self._mix(x, None, mask, last, causal)[0]",
        "return self._mix(x, None, mask, last)[0]",
        "causal is not handed on",
    ),
    (
        MAMBA,
        "d_inner, delta_min, delta_max, delta_floor\n        )",
        "d_inner, delta_min, delta_max\n        )",
        "the floor of Δ is not handed on",
    ),
    (
        MAMBA,
        "self.out_proj = nn.Linear(d_inner, d_model, bias=bias)",
        "self.out_proj = nn.Linear(d_inner, d_model, bias=False)",
        "an option of one of two projections",
    ),
    (
        SELECTIVE,
        "                initial_state=state,\n                rule=self.rule,\n",
        "                initial_state=state,\n",
        "the parallel form forgets the rule",
    ),
    (
        S4,
        'self.parameter("log_delta", log_delta, **slow)',
        'self.parameter("log_delta", log_delta, decay=False, exact=True)',
        "the system learns as fast as everything else",
    ),
    (
        S4,
        'self.parameter("frequency", every.imag, **slow)',
        'self.parameter("frequency", every.imag, **{**slow, "decay": True})',
        "the system decays",
    ),
    # defaults
    (
        PERCEIVER,
        "        n_cross_heads: int = 1,\n        widening: int = 1,",
        "        n_cross_heads: int = 1,\n        widening: int = 4,",
        "a default that tests always give",
    ),
    (IO, "query_residual: bool = False,", "query_residual: bool = True,", "a default"),
    (
        MAMBA,
        "        taps: int = 4,\n        rank",
        "        taps: int = 3,\n        rank",
        "a default",
    ),
    (
        TRAINING,
        "clip: float | int | None = 1.0  # largest",
        "clip: float | int | None = None  # largest",
        "a default",
    ),
    (
        TRAINING,
        "weight_decay: float | int = 0.01  # AdamW's",
        "weight_decay: float | int = 0.0  # AdamW's",
        "a default",
    ),
    # scales
    (
        MIXER,
        "nn.init.normal_(self.embedding.weight, std=0.02)",
        "nn.init.normal_(self.embedding.weight, std=1.0)",
        "an embedding of the default's size",
    ),
    (
        MIXER,
        "nn.init.normal_(self.head.weight, std=0.02)",
        "pass",
        "a head of its own starts as torch starts it: equal chances to within the test's half nat",
    ),
    (
        IO,
        "nn.init.normal_(self.queries, std=0.02)",
        "nn.init.normal_(self.queries, std=1.0)",
        "queries a hundred times as large",
    ),
    (
        IO,
        "            nn.init.normal_(weight, std=0.02)",
        "            nn.init.normal_(weight, std=0.2)",
        "embeddings ten times as large",
    ),
    (
        IO,
        "nn.init.normal_(self.query, std=0.02)",
        "nn.init.normal_(self.query, std=0.2)",
        "a query ten times as large",
    ),
    (
        PERCEIVER,
        "nn.init.trunc_normal_(self.latents, std=0.02, a=-2, b=2)",
        "nn.init.trunc_normal_(self.latents, std=1.0, a=-2, b=2)",
        "latents fifty times as large",
    ),
    (
        IO,
        "nn.init.trunc_normal_(self.latents, std=0.02, a=-2, b=2)",
        "nn.init.trunc_normal_(self.latents, std=1.0, a=-2, b=2)",
        "latents fifty times as large",
    ),
    # rounding
    (
        MIXER,
        "logits = logits - logits.max(dim=-1, keepdim=True).values",
        "pass",
        "a small temperature overflows",
    ),
    (
        LAYER,
        "return y + torch.log(-torch.expm1(-y))",
        "return torch.log(torch.expm1(y))",
        "a large y overflows",
    ),
    (
        LAYER,
        "return y + torch.log(-torch.expm1(-y))",
        "return y + torch.log(1 - torch.exp(-y))",
        "a small y loses its digits",
    ),
    (
        DECODER,
        "z = full(x)  # in float16 the square of 300 is infinite",
        "z = x",
        "a square overflows in half precision",
    ),
    (
        RECURRENT,
        "u, h = full(self.input(x_t)), full(state)",
        "u, h = self.input(x_t), state.to(x_t.dtype)",
        "a state is rounded at every step",
    ),
    (
        DECODER,
        "dtype = torch.promote_types(x.dtype, torch.float32)\n        cos, sin",
        "dtype = x.dtype\n        cos, sin",
        "angles in half precision",
    ),
    (
        IO,
        "dtype, device = full(images).dtype, images.device",
        "dtype, device = images.dtype, images.device",
        "positions in half precision",
    ),
    (
        MAMBA,
        'self.exact = frozenset({"bias"})',
        "self.exact = frozenset()",
        "the bias of Δ is rounded to half precision",
    ),
    # a run that goes on
    (
        TRAINING,
        "    if saved:\n        saved.wind(rank)",
        "    if saved and False:\n        saved.wind(rank)",
        "a run that goes on draws other numbers",
    ),
    (
        TRAINING,
        '    np.random.set_state(tuple(states["numpy"]))  # noqa: NPY002\n',
        "",
        "NumPy's numbers begin anew where a run goes on",
    ),
    (
        TRAINING,
        "    random.setstate((version, tuple(keys), gauss))\n",
        "",
        "Python's numbers begin anew where a run goes on",
    ),
    (
        TRAINING,
        "        self.optimizer.load_state_dict(slots)\n",
        "",
        "the optimizer's means begin anew where a run goes on",
    ),
    (
        TRAINING,
        "    for _ in range(begin):\n        next(stream, None)\n",
        "",
        "a run that goes on sees its first batches again",
    ),
    (
        TRAINING,
        "            start.update(what.encode() + _bytes(tensor))",
        "            start.update(what.encode())",
        "the checkpoint of another start is taken",
    ),
    (
        TRAINING,
        '        unfinished = self.path.with_name(self.path.name + ".new")',
        "        unfinished = self.path",
        "a kill while it is written leaves half a checkpoint",
    ),
    (
        TRAINING,
        "if saved and (reached or step == last or step % every == 0):",
        "if saved and (step == last or step % every == 0):",
        "a run that has reached its target is not kept as finished",
    ),
    (
        TRAINING,
        '            raise ValueError(\n                "checkpoint: expected a file that train has',
        '            return [], [], False\n            raise ValueError(\n                "checkpoint: expected a file that train has',
        "a damaged checkpoint is silently begun anew",
    ),
]
