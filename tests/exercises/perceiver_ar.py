"""Wrong answers to the exercises of chapter 10: each is a plausible slip."""

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


def _strided(model, tokens, start, stride, first, slide=False, late=0):
    rows = []
    for end in range(start, tokens.shape[1] + 1):
        if (end - start) % stride == 0:
            n_latents = first(model, stride)
            logits, state = model.prefill(tokens[:, :end], n_latents=n_latents)
        else:
            logits, state = model.step(tokens[:, end - 1 - late], state, slide=slide)
        rows.append(logits)
    return torch.stack(rows, dim=1)


def always_all_latents(model, tokens, start, stride):
    return _strided(model, tokens, start, stride, lambda model, stride: None)


def slides(model, tokens, start, stride):
    return _strided(model, tokens, start, stride, lambda model, stride: None, slide=True)


def one_latent_too_few(model, tokens, start, stride):
    def first(model, stride):
        return max(1, model.n_latents - stride)

    return _strided(model, tokens, start, stride, first)


def the_token_before(model, tokens, start, stride):
    def first(model, stride):
        return model.n_latents - stride + 1

    return _strided(model, tokens, start, stride, first, late=1)


def passes_between(model, tokens, start, stride):
    rows = []
    for end in range(start, tokens.shape[1] + 1):
        late = (end - start) % stride
        n_latents = model.n_latents - stride + 1
        if late == 0:
            rows.append(model.prefill(tokens[:, :end], n_latents=n_latents)[0])
        else:
            rows.append(model(tokens[:, :end], n_latents=n_latents + late)[:, -1])
    return torch.stack(rows, dim=1)


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
    assert torch.allclose(before[:, :-1], after[:, :-1], atol=1e-5)


def tests_one_layer_only(logits):
    model, plain, tokens = _pair(1, 4)
    assert torch.allclose(logits(model, tokens), plain(tokens)[:, -4:], atol=1e-5)


def tests_the_decoder_only(logits):
    model, plain, tokens = _pair(3, 9)
    assert torch.allclose(logits(model, tokens), plain(tokens), atol=1e-5)


def takes_it_for_a_window(logits):
    model, plain, tokens = _pair(3, 4)
    assert torch.allclose(logits(model, tokens), plain(tokens)[:, -4:], atol=1e-5)


WRONG = {
    "10-masks": [
        aligned_left,
        not_itself,
        true_where_hidden,
        latents_see_all,
        as_numbers,
        the_librarys,
    ],
    "10-pays": [all_layers_save, equality_is_enough, skipping_changes_nothing, half_of_everything],
    "10-stride": [
        *(always_all_latents, slides, one_latent_too_few),
        *(the_token_before, passes_between),
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
