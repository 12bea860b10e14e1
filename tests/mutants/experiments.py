"""Scripts that train on what they score, score what they say they do not, or skip what is new."""

RUNS, LM, AR = (f"experiments/{n}.py" for n in ("runs", "language_models", "perceiver_ar"))
DIGITS, HISTORY, IO = (f"experiments/perceiver_{n}.py" for n in ("digits", "history", "io"))
PYRAMID, COPYING, STEPS, SEQUENTIAL = (
    f"experiments/{n}.py"
    for n in ("pyramid", "selective_copying", "selective_steps", "sequential_digits")
)
MOVIELENS, STACKED, STACKS = (f"experiments/{n}.py" for n in ("movielens", "stacked", "stacks"))
RECALL, TASKS = "experiments/recall.py", "src/linear_time/tasks.py"

MUTANTS = [
    # resuming
    (
        RUNS,
        "[row for row in record if job.items() <= row.items()]",
        '[row for row in record if row.get("seed") == job.get("seed")]',
        "a job is taken for done by its seed alone: other learning rates are skipped",
    ),
    (
        RUNS,
        "[row for row in record if job.items() <= row.items()]",
        '[r for r in record if {k: v for k, v in job.items() if k != "steps"}.items() <= r.items()]',
        "a job of other steps is taken for done",
    ),
    (
        RUNS,
        "[row for row in record if job.items() <= row.items()]",
        "[r for r in record if any(r.get(k) == v for k, v in job.items())]",
        "one equal setting is enough",
    ),
    (
        RUNS,
        "missing = [job for job in jobs if not _rows(record, job)]",
        "missing = list(jobs)",
        "what was done is run again",
    ),
    (
        RUNS,
        "before.rows if before else (),",
        "(),",
        "what was done is thrown away",
    ),
    (
        RUNS,
        'seeds = {*options.seeds, *(before.settings.get("seeds", ()) if before else ())}',
        "seeds = {*options.seeds}",
        "the record forgets the seeds of earlier runs",
    ),
    (
        RUNS,
        'self.name = name if size == "full" else f"{name}_{size}"',
        "self.name = name",
        "a small run is written into the full record",
    ),
    (
        RUNS,
        "machines if here in machines else (*machines, here),",
        "(here,),",
        "the machine of the first rows is forgotten",
    ),
    (
        RUNS,
        "order = torch.tensor(np.random.default_rng(0).permutation(len(images)))",
        "order = torch.tensor(np.random.default_rng().permutation(len(images)))",
        "each call splits the digits anew, so that test digits are trained on",
    ),
    (
        RUNS,
        "warmup=min(warmup, steps),",
        "warmup=warmup,",
        "a short run never leaves its warm-up",
    ),
    # texts
    (
        LM,
        'return nn.functional.cross_entropy(logits.mT, batch[:, 1:], reduction="none")',
        'return nn.functional.cross_entropy(logits.mT, batch[:, :-1], reduction="none")',
        "trained to repeat what was just read",
    ),
    (
        LM,
        "targets = some[:, half + 1 :]",
        "targets = some[:, half:-1]",
        "scored on what was just read",
    ),
    (
        LM,
        "logits = network(some[:, :-1])[:, half:]\n",
        "logits = network(some[:, :-1])[:, :half]\n",
        "the positions with the least context are scored",
    ),
    (
        LM,
        'nn.functional.cross_entropy(logits.mT, some[:, 1:], reduction="none").sum(0)',
        'nn.functional.cross_entropy(logits.mT, some[:, :-1], reduction="none").sum(0)',
        "by position, what was just read is scored",
    ),
    (
        LM,
        "some = validation[: 64 * size.length + 1]",
        "some = test[: 64 * size.length + 1]",
        "the test part is looked at during training",
    ),
    (
        LM,
        '"validation": round(bits(network, validation, size.length), 4),',
        '"validation": round(bits(network, test, size.length), 4),',
        "rates are chosen on the test part",
    ),
    (
        LM,
        '"test": round(bits(network, test, size.length), 4),',
        '"test": round(bits(network, validation, size.length), 4),',
        "the validation part is reported as the test",
    ),
    (
        LM,
        "functools.partial(batches, training, size),",
        "functools.partial(batches, torch.cat([training, validation]), size),",
        "trained on the validation part, too",
    ),
    (
        LM,
        "training, *others = book.parts()",
        "training, *others = book.tokens, *book.parts()[1:]",
        "trained on the whole text",
    ),
    (
        LM,
        "p = n_gram(training, tokens, len(book.alphabet), ORDERS)",
        "p = n_gram(tokens, tokens, len(book.alphabet), ORDERS)",
        "n-grams count what they predict",
    ),
    (
        LM,
        'compressed_bits(training, test, job["compressor"])',
        'compressed_bits(test, test, job["compressor"])',
        "a compressor has seen what it compresses",
    ),
    (
        LM,
        'others = {"weight_decay": 0.1, "beta2": job.get("beta2", 0.999)}',
        'others = {"weight_decay": 0.1, "beta2": 0.999}',
        "the setting that the control is about is not handed on",
    ),
    (
        AR,
        'cross_entropy(logits.mT, batch[:, -N:], reduction="none")',
        'cross_entropy(logits.mT, batch[:, -N - 1 : -1], reduction="none")',
        "trained to repeat what was just read",
    ),
    (
        AR,
        "window = torch.stack([part[end - M - 1 : end] for end in some.tolist()])",
        "window = torch.stack([part[end - M : end + 1] for end in some.tolist()])",
        "the last window reads beyond the part",
    ),
    (
        AR,
        "logits = network(window[:, :-1])[:, -SCORED:]",
        "logits = network(window[:, 1:])[:, -SCORED:]",
        "the model is shown the character that it is asked for",
    ),
    (
        AR,
        "lambda n: mean(bits(n, validation, M, 64))",
        "lambda n: mean(bits(n, test, M, 64))",
        "the curve is the test part's",
    ),
    (
        AR,
        'for name, part in (("validation", validation), ("test", test))',
        'for name, part in (("validation", test), ("test", validation))',
        "validation and test are exchanged",
    ),
    (
        AR,
        "steps = round(budget / (batch_size * forward_flops(M, N, vocab_size)))",
        'steps = job["steps"]',
        "the same updates instead of the same compute",
    ),
    (
        AR,
        "first = 4 * N * d * d + 4 * M * d * d + 4 * N * M * d + N * mlp",
        "first = 4 * N * d * d + 4 * N * d * d + 4 * N * M * d + N * mlp",
        "keys and values are counted for the latents alone",
    ),
    # digits
    (
        DIGITS,
        'lambda n: accuracy(n, "validation")',
        'lambda n: accuracy(n, "test")',
        "the rate is chosen on the test digits",
    ),
    (
        DIGITS,
        '"test": round(accuracy(network, "test"), 4),',
        '"test": round(accuracy(network, "train"), 4),',
        "training digits are scored",
    ),
    (
        DIGITS,
        "yield from ((x[i], y[i]) for i in order.split(BATCH) if len(i) == BATCH)",
        "yield from ((x[i], y[i.flip(0)]) for i in order.split(BATCH) if len(i) == BATCH)",
        "classes of other digits",
    ),
    (
        DIGITS,
        'x, y = d["train"]',
        'x, y = (torch.cat([d[k][i] for k in ("train", "validation")]) for i in (0, 1))',
        "trained on the validation digits, too",
    ),
    (
        DIGITS,
        'index = (moved if condition == "permuted" else order).to(device)',
        'index = (order if condition == "permuted" else moved).to(device)',
        "positions go with the pixels where they should not",
    ),
    (
        PYRAMID,
        'lambda n: quality(n, "validation")',
        'lambda n: quality(n, "test")',
        "the rate is chosen on the test",
    ),
    (
        PYRAMID,
        '"test": round(quality(network, "test"), 4),',
        '"test": round(quality(network, "validation"), 4),',
        "the validation part is reported as the test",
    ),
    (
        PYRAMID,
        "return (out - batch[1]).square().mean((1, 2)) / scale",
        "return (out - batch[1].roll(1, 0)).square().mean((1, 2)) / scale",
        "rebuilt is another patch",
    ),
    (
        PYRAMID,
        "order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))",
        "order = torch.randperm(len(x))",
        "the patches are split anew at every call",
    ),
    (
        IO,
        "error = (network.values(z, points[unseen]) - x.gather(1, unseen)).square().mean()",
        "error = (network.values(z, points[seen]) - x.gather(1, seen)).square().mean()",
        "what was read is scored",
    ),
    (
        IO,
        "seen, unseen = order[:, :READ], order[:, READ:]\n    points = grid(8, 8).to(x.device)",
        "seen, unseen = order[:, :READ], order\n    points = grid(8, 8).to(x.device)",
        "what was read is scored among the rest",
    ),
    (
        IO,
        'found = scores(network, *parts["validation"])\n        return',
        'found = scores(network, *parts["test"])\n        return',
        "the rate is chosen on the test",
    ),
    (
        IO,
        '"test": scores(network, *parts["test"]),',
        '"test": scores(network, *parts["validation"]),',
        "the validation part is reported as the test",
    ),
    (
        IO,
        'mean = parts["train"][0].mean(0).expand(len(x), -1).gather(1, unseen)',
        'mean = parts["test"][0].mean(0).expand(len(x), -1).gather(1, unseen)',
        "a baseline knows the test digits",
    ),
    (
        IO,
        "yield (x[i], y[i], choose(BATCH, generator).to(device), asked.to(device))",
        "yield (x[i], y.roll(1)[i], choose(BATCH, generator).to(device), asked.to(device))",
        "classes of other digits",
    ),
    # histories
    (
        HISTORY,
        'seen = torch.isin(user, parts["train"])',
        'seen = torch.isin(user, torch.cat([parts["train"], parts["test"]]))',
        "movies are known by the ratings of test users",
    ),
    (
        HISTORY,
        "windows = [lists[u].unfold(0, span, CANDIDATES) for u in users if len(lists[u]) >= span]",
        "windows = [lists[u].flip(0).unfold(0, span, 8) for u in users if len(lists[u]) >= span]",
        "a history comes after its candidates",
    ),
    (
        HISTORY,
        "past, asked = torch.cat(windows).split([LENGTH, CANDIDATES], dim=1)",
        "past = torch.cat(windows)[:, -LENGTH:]\n        asked = torch.cat(windows)[:, -CANDIDATES:]",
        "the candidates are in the history",
    ),
    (
        HISTORY,
        'found, _ = share(network, "validation", job["target"])',
        'found, _ = share(network, "test", job["target"])',
        "the step is chosen on the test users",
    ),
    (
        HISTORY,
        "if found > best[0]:  # the step is chosen, too",
        "if True:",
        "the last step is reported, not the one chosen",
    ),
    (
        HISTORY,
        'rows = data()["train"]',
        'rows = data()["test"]',
        "trained on the test users",
    ),
    (
        HISTORY,
        "level = rating[past].mean(1, keepdim=True)",
        "level = rating[torch.cat([past, asked], 1)].mean(1, keepdim=True)",
        "the level that is subtracted knows the candidates",
    ),
    (
        HISTORY,
        "in_time = torch.argsort(rows.timestamp, stable=True)",
        "in_time = torch.arange(len(user))",
        "a history in the table's order, not in that of time",
    ),
    # sequences
    (
        COPYING,
        "validation, test = held_out(10**6), held_out(10**6 + 1)",
        "validation, test = held_out(10**6), held_out(10**6)",
        "rates are chosen on the test sequences",
    ),
    (
        COPYING,
        "validation, test = held_out(10**6), held_out(10**6 + 1)",
        'validation, test = held_out(job["seed"]), held_out(10**6 + 1)',
        "the validation sequences are those of training",
    ),
    (
        COPYING,
        "loss = answer_loss(model, validation).double().mean().item()",
        "loss = answer_loss(model, test).double().mean().item()",
        "rates are chosen on the test sequences",
    ),
    (
        COPYING,
        "tokens, sequences = accuracy(model, test)",
        "tokens, sequences = accuracy(model, validation)",
        "the validation sequences are reported as the test",
    ),
    (
        COPYING,
        "tokens, sequences = accuracy(model, test)",
        "sequences, tokens = accuracy(model, test)",
        "two shares exchanged",
    ),
    (
        COPYING,
        '    own = width(job["model"], job["size"])  # which draws numbers, once a process\n'
        '    seed_everything(job["seed"])\n',
        '    seed_everything(job["seed"])\n    own = width(job["model"], job["size"])\n',
        "the start depends on what ran before in the process (it did)",
    ),
    (
        STEPS,
        "generator = torch.Generator().manual_seed(10**6 + 1)",
        "generator = torch.Generator().manual_seed(10**6)",
        "looked into is the layer at the validation sequences",
    ),
    (
        SEQUENTIAL,
        "rest = torch.cat([*folds[fold + 1 :], *folds[:fold]])",
        "rest = torch.cat([*folds[fold:], *folds[:fold]])",
        "the test digits are trained on",
    ),
    (
        SEQUENTIAL,
        '"validation": rest[:VALIDATION], "train": rest[VALIDATION:]}',
        '"validation": rest[:VALIDATION], "train": rest}',
        "the validation digits are trained on",
    ),
    (
        SEQUENTIAL,
        "result[name] = measure(own[at], classes[at], at) if finite else dict(DIVERGED)",
        "result[name] = measure(own[at], classes[at].roll(1), at) if finite else dict(DIVERGED)",
        "classes of other digits",
    ),
    (
        SEQUENTIAL,
        'rows.append(batches(parts(job["fold"])["train"], job["seed"], job["steps"]))',
        'rows.append(batches(parts(0)["train"], job["seed"], job["steps"]))',
        "every fold is trained on the first one's digits",
    ),
    (
        SEQUENTIAL,
        'for name in ("validation", "test"):\n            at = rows_of[name]',
        'for name in ("validation", "test"):\n            at = rows_of["test"]',
        "the validation digits are the test's",
    ),
    # ratings
    (
        MOVIELENS,
        "logits.append(model.eval().logits(d.fields, d.split.test).cpu())",
        "logits.append(model.eval().logits(d.fields, d.split.validation).cpu())",
        "logits of other rows",
    ),
    (
        MOVIELENS,
        "fields = movielens_fields(ml, split.train)",
        "fields = movielens_fields(ml, torch.cat(list(split)))",
        "ages and means are counted over the test rows, too",
    ),
    (
        MOVIELENS,
        "user, movie = (seen(value, split.train)[split.test] for value in (ml.user, ml.movie))",
        "user, movie = (seen(value, split.test)[split.test] for value in (ml.user, ml.movie))",
        "every row is warm",
    ),
    (
        MOVIELENS,
        'reference = exact(job["protocol"], job["strength"], job["quick"])[d.split.test.cpu()]',
        'reference = exact(job["protocol"], job["strength"], job["quick"])[d.split.train.cpu()]'
        "[: len(d.split.test)]",
        "compared with other rows",
    ),
    (
        MOVIELENS,
        "return scores(logit[split.validation], label[split.validation]).log_loss",
        "return scores(logit[split.test], label[split.test]).log_loss",
        "strengths are chosen on the test rows",
    ),
    (
        MOVIELENS,
        "return torch.logit(smoothed_rate(value, label, split.train))",
        "return torch.logit(smoothed_rate(value, label, torch.arange(len(label))))",
        "the rate of a movie counts the test rows",
    ),
    (
        MOVIELENS,
        "evidence = similarity_evidence(d.user, d.movie, residual, split.train, shrink)",
        "evidence = similarity_evidence(d.user, d.movie, residual, split.test, shrink)",
        "similar movies are those of the test rows",
    ),
    (
        MOVIELENS,
        "model = logistic_regression(d.fields, d.label, d.split.train, strength)",
        "model = logistic_regression(d.fields, d.label, d.split.validation, strength)",
        "fitted to the validation rows",
    ),
    (
        MOVIELENS,
        "for _, setting, row in found[:number]",
        "for _, setting, row in found[-number:]",
        "the worst settings are run again",
    ),
    (
        STACKS,
        "logit = stack.logits(stack.flat, fields, split.validation)",
        "logit = stack.logits(stack.flat, fields, split.test)",
        "stopped early by the test rows",
    ),
    (
        STACKS,
        "return Fitted(least, best_step, stack.logits(best, fields, split.test))",
        "return Fitted(least, best_step, stack.logits(stack.flat, fields, split.test))",
        "the last step is scored, not the best",
    ),
    (
        STACKS,
        'logit = logits({**parameters, "dropout": dropout}, codes, genres)',
        "logit = logits(parameters, codes, genres)",
        "dropout is not handed on",
    ),
    (
        STACKED,
        "losses.index_copy_(0, done, loss.detach()[None])",
        "losses.index_copy_(0, done, loss.detach()[None].mean().expand(1, many))",
        "one loss for all networks",
    ),
    (
        STACKED,
        "scale = (configs[0].clip / (squares.sqrt() + 1e-6)).clamp(max=1)",
        "scale = (configs[0].clip / (squares.sum().sqrt() + 1e-6)).clamp(max=1)",
        "the networks are clipped together",
    ),
    # the small recall
    (
        RECALL,
        "    right = targets.gather(1, places)\n    if not task.twice",
        "    right = targets.gather(1, places).roll(1, 1)\n    if not task.twice",
        "the answers are those of other questions",
    ),
    (
        RECALL,
        "    last = which >= half\n",
        "    last = which < half\n",
        "a key is asked for its first value",
    ),
    (
        RECALL,
        "keys = torch.cat([keys[:, :half], keys[:, :half].gather(1, noise.argsort(1))], 1)",
        "keys = keys.clone()",
        "no key is written twice",
    ),
    (
        RECALL,
        "keys = torch.cat([keys[:, :half], keys[:, :half].gather(1, noise.argsort(1))], 1)",
        "keys = torch.cat([keys[:, :half], keys[:, :half]], 1)",
        "keys are written again in the order of the first time",
    ),
    (
        RECALL,
        "keys.gather(1, which) * last)  # of the first write nothing is asked",
        "keys.gather(1, which))",
        "what stands at the first write's questions is a key, which is not scored",
    ),
    (
        TASKS,
        "    targets.scatter_(1, places, values)\n    return tokens, targets",
        "    targets.scatter_(1, places, values.flip(1))\n    return tokens, targets",
        "each key is asked for another's value",
    ),
    (
        RECALL,
        "n_state=size.n_state, mini_batch=size.mini_batch",
        "n_state=size.n_state // (1 + (model in VECTORS)), mini_batch=size.mini_batch",
        "a vector has half of the others' numbers",
    ),
    (
        RECALL,
        'values = inner // 2 if rule in ("Titans", "TTT-Linear") else inner',
        "values = inner",
        "a rule with a second state has twice the numbers",
    ),
    (
        RECALL,
        "self.width = width = math.isqrt(n_state // heads)",
        "self.width = width = math.isqrt(2 * n_state // heads)",
        "a table has twice the numbers that are said",
    ),
    (
        RECALL,
        "validation, test = (scores(stack, of) for of in (VALIDATION, TEST))",
        "validation, test = (scores(stack, of) for of in (VALIDATION, VALIDATION))",
        "the validation sequences are reported as the test",
    ),
    (
        RECALL,
        "validation, test = (scores(stack, of) for of in (VALIDATION, TEST))",
        "test, validation = (scores(stack, of) for of in (VALIDATION, TEST))",
        "rates are chosen on the test sequences",
    ),
    (
        RECALL,
        "held_out = {of: rows(size.evaluated, of) for of in (VALIDATION, TEST)}",
        "held_out = {of: rows(size.evaluated, of - VALIDATION) for of in (VALIDATION, TEST)}",
        "scored are the sequences of the training's first seeds",
    ),
    (
        RECALL,
        'first = torch.tensor([seeds.index(job["seed"]) * steps * batch for job in group])',
        "first = torch.tensor([0 for job in group])",
        "all seeds train on the first one's sequences",
    ),
    (
        RECALL,
        '        seed_everything(job["seed"])\n        networks.append(Asked(',
        '        seed_everything(group[0]["seed"])\n        networks.append(Asked(',
        "all seeds have one start",
    ),
    (
        RECALL,
        "settings = [runs.config(job, WARMUP, 1) for job in group]",
        'settings = [runs.config({**job, "lr": group[0]["lr"]}, WARMUP, 1) for job in group]',
        "every network is trained at the first one's rate",
    ),
    (
        RECALL,
        '                best = own.chosen("validation_loss")[0]["lr"]\n'
        "                further = runs.beyond",
        '                best = own.chosen("tokens", largest=True)[0]["lr"]\n'
        "                further = runs.beyond",
        "a sweep goes on where the test is best",
    ),
    (
        RECALL,
        '            picked = own.chosen("validation_loss")\n            right, whole',
        '            picked = own.chosen("tokens", largest=True)\n            right, whole',
        "what is reported is the best on the test",
    ),
    (
        RECALL,
        'if rule == "DeltaNet without erasing":\n            return recurrence(q, unit, beta * v, one)',
        'if rule == "DeltaNet without erasing":\n'
        "            return recurrence(q, unit, beta * v, one, beta * unit)",
        "the control erases",
    ),
    (
        RECALL,
        "mixed = self.taps(mixed.mT)[..., : x.shape[1]].mT",
        "mixed = self.taps(mixed.mT)[..., -x.shape[1] :].mT",
        "the convolution sees what comes",
    ),
    (
        RECALL,
        "if len(own) < len(rates) * len(options.seeds):",
        "if not len(own):",
        "a rate is chosen by a part of the sweep",
    ),
]
