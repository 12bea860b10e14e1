"""Wrong answers to the exercises of chapter 10: each is a plausible slip."""

import copy

import torch

from linear_time.attention import causal_mask
from linear_time.decoder import LlamaLM
from linear_time.perceiver_ar import PerceiverAR

SIZES = {"n_heads": 2, "n_kv_heads": 2, "d_ff": 12}


def aligned_left(n, m):
    return torch.ones(m, n).tril().bool(), torch.ones(m, m).tril().bool()


def not_itself(n, m):
    return torch.ones(n, n).tril(-1).bool()[n - m :], torch.ones(m, m).tril(-1).bool()


def true_where_hidden(n, m):
    return torch.ones(n, n).triu(1).bool()[n - m :], torch.ones(m, m).triu(1).bool()


def latents_see_all(n, m):
    return torch.ones(n, n).tril().bool()[n - m :], torch.ones(m, m).bool()


def as_numbers(n, m):
    return torch.ones(n, n).tril()[n - m :], torch.ones(m, m).tril()


def own_masks(n, m):
    """Right."""
    latent = torch.arange(n - m, n)[:, None]
    return latent >= torch.arange(n), latent >= latent.T


def own_triple(n, m):
    return (*own_masks(n, m), True)


def the_librarys(n, m):
    return causal_mask(n)[n - m :], causal_mask(m)


def all_layers_save(d, layers, skip):
    return (2 if skip else 1) * d // layers + 1


def equality_is_enough(d, layers, skip):
    top, bottom = (2 * d, layers - 2) if skip else (d, layers - 1)
    return -(-top // bottom) if bottom > 0 else None


def skipping_changes_nothing(d, layers, skip):
    return d // (layers - 1) + 1 if layers > 1 else None


def half_of_everything(d, layers, skip):
    top = 2 * d if skip else d
    return top // (layers - 1) + 1 if layers > 1 else None


def _strided(prefill, step, tokens, start, stride, first, slide=False, late=0):
    rows = []
    for end in range(start, tokens.shape[1] + 1):
        if (end - start) % stride == 0:
            logits, state = prefill(tokens[:, :end], n_latents=first)
        else:
            logits, state = step(tokens[:, end - 1 - late], state, slide=slide)
        rows.append(logits)
    return torch.stack(rows, dim=1)


def always_all_latents(prefill, step, tokens, start, stride, most):
    return _strided(prefill, step, tokens, start, stride, most)


def slides(prefill, step, tokens, start, stride, most):
    return _strided(prefill, step, tokens, start, stride, most, slide=True)


def one_latent_too_few(prefill, step, tokens, start, stride, most):
    return _strided(prefill, step, tokens, start, stride, max(1, most - stride))


def the_token_before(prefill, step, tokens, start, stride, most):
    return _strided(prefill, step, tokens, start, stride, most - stride + 1, late=1)


def passes_between(prefill, step, tokens, start, stride, most):
    rows = []
    for end in range(start, tokens.shape[1] + 1):
        n_latents = most - stride + 1 + (end - start) % stride
        rows.append(prefill(tokens[:, :end], n_latents=n_latents)[0])
    return torch.stack(rows, dim=1)


def steps_twice(prefill, step, tokens, start, stride, most):
    rows = []
    for end in range(start, tokens.shape[1] + 1):
        if (end - start) % stride == 0:
            logits, state = prefill(tokens[:, :end], n_latents=most - stride + 1)
        else:
            step(tokens[:, end - 1], copy.deepcopy(state))
            logits, state = step(tokens[:, end - 1], state)
        rows.append(logits)
    return torch.stack(rows, dim=1)


def shares(all_scores=True, both=4, mlp=8, parts=3):
    def answer(d, n, visible):
        keys = n if not visible or not all_scores else (n + 1) / 2
        seen, weights = both * d * keys, 2 * (4 + mlp) * d**2
        total = seen + weights
        return (weights / total, 2 * mlp * d**2 / total, seen / total)[:parts]

    return answer


def read_off(**wrong):
    right = {
        "decoder, batches of 16": 3.03,
        "decoder, 1,024 losses": 2.43,
        "64 alone, 5 x compute": 1.87,
    }
    names = dict(zip(("left", "middle", "right"), right, strict=True))
    return right | {names.get(name, name): value for name, value in wrong.items()}


def one_window(t, m, layers):
    return max(0, t - m + 1)


def m_a_layer(t, m, layers):
    return max(0, t - (layers - 1) * m)


def counts_the_first_layer(t, m, layers):
    return max(0, t - layers * (m - 1))


def before_the_beginning(t, m, layers):
    return t - (layers - 1) * (m - 1)


def _pair(layers, m):
    torch.manual_seed(0)
    model = PerceiverAR(7, 8, layers, m, **SIZES)
    plain = LlamaLM(7, 8, layers, **SIZES)
    plain.load_state_dict(model.state_dict())
    return model, plain, torch.randint(7, (1, 9))


def tests_the_shape(logits):
    model, _, tokens = _pair(3, 4)
    assert logits(model, tokens).shape == (1, 4, 7)


def tests_causality_only(logits):
    model, _, tokens = _pair(3, 4)
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 7
    before, after = logits(model, tokens), logits(model, changed)
    assert torch.allclose(before[:, :-1], after[:, :-1], rtol=0, atol=1e-5)


def tests_one_layer_only(logits):
    model, plain, tokens = _pair(1, 4)
    assert torch.allclose(logits(model, tokens), plain(tokens)[:, -4:], rtol=0, atol=1e-5)


def tests_the_decoder_only(logits):
    model, plain, tokens = _pair(3, 9)
    assert torch.allclose(logits(model, tokens), plain(tokens), rtol=0, atol=1e-5)


def takes_it_for_a_window(logits):
    model, plain, tokens = _pair(3, 4)
    assert torch.allclose(logits(model, tokens), plain(tokens)[:, -4:], rtol=0, atol=1e-5)


WRONG = {
    "10-masks": [
        aligned_left,
        not_itself,
        true_where_hidden,
        latents_see_all,
        as_numbers,
        own_triple,
        the_librarys,
    ],
    "10-pays": [all_layers_save, equality_is_enough, skipping_changes_nothing, half_of_everything],
    "10-stride": [
        *(always_all_latents, slides, one_latent_too_few),
        *(the_token_before, passes_between, steps_twice),
    ],
    "10-audit": [
        shares(all_scores=False),
        shares(both=2),
        shares(mlp=4),
        shares(parts=2),
        lambda d, n, visible: (*shares()(d, n, visible), 0),
        lambda d, n, visible: (shares()(d, n, visible)[0],) * 2 + shares()(d, n, visible)[2:],
        lambda d, n, visible: (0.986, 0.66, 0.014),
        lambda d, n, visible: (0.98, *shares()(d, n, visible)[1:]),
    ],
    "10-read": [
        lambda: read_off(left=2.3),
        lambda: read_off(middle=3.03),
        lambda: read_off(middle=2.3),
        lambda: read_off(right=1.94),
        lambda: read_off(other=1.94),
        lambda: (3.03, 2.43, 1.87),
    ],
    "10-reach": [one_window, m_a_layer, counts_the_first_layer, before_the_beginning],
    "10-bug": [
        tests_the_shape,
        tests_causality_only,
        tests_one_layer_only,
        tests_the_decoder_only,
        takes_it_for_a_window,
    ],
}
