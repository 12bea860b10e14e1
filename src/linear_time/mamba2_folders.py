"""Chapter 20: how the folders of Mamba-2's weights name settings and tensors.

``Mamba2LM`` reads both kinds, and writes the first.
"""

from linear_time import checkpoints, mamba
from linear_time.checkpoints import Setting

_NUMBER = (int, float)

#: Folders of Hugging Face's Mamba-2, whose head is a matrix of its own unless
#: the folder says otherwise.
HUGGING_FACE = checkpoints.Layout(
    model_type="mamba2",
    settings={
        "vocab_size": Setting("vocab_size", int),
        "d_model": Setting("hidden_size", int),
        "n_layer": Setting("num_hidden_layers", int),
        "N": Setting("state_size", int, 128),
        "expand": Setting("expand", int, 2),
        "heads": Setting("num_heads", int, 128),
        "P": Setting("head_dim", int, 64),
        "groups": Setting("n_groups", int, 8),
        "taps": Setting("conv_kernel", int, 4),
        "bias": Setting("use_bias", bool, False),
        "conv_bias": Setting("use_conv_bias", bool, True),
        "eps": Setting("layer_norm_epsilon", _NUMBER, 1e-5),
        "tied": Setting("tie_word_embeddings", bool, False),
        "limit": Setting("time_step_limit", list, None),
    },
    only={
        "hidden_act": "silu",
        "quantization_config": None,
    },
    keys={**mamba.HUGGING_FACE.keys, "head": "lm_head"},
    same=mamba.HUGGING_FACE.same,
)

#: Folders of the released code.
RELEASED = checkpoints.Layout(
    settings={
        "vocab_size": Setting("vocab_size", int),
        "fill": Setting("pad_vocab_size_multiple", int, 8),
        "d_model": Setting("d_model", int),
        "n_layer": Setting("n_layer", int),
        "N": Setting("d_state", int, 128, "ssm_cfg"),
        "expand": Setting("expand", int, 2, "ssm_cfg"),
        "P": Setting("headdim", int, 64, "ssm_cfg"),
        "groups": Setting("ngroups", int, 1, "ssm_cfg"),
        "taps": Setting("d_conv", int, 4, "ssm_cfg"),
        "bias": Setting("bias", bool, False, "ssm_cfg"),
        "conv_bias": Setting("conv_bias", bool, True, "ssm_cfg"),
        "eps": Setting("norm_epsilon", _NUMBER, 1e-5),
        "tied": Setting("tie_embeddings", bool, True),
        "limit": Setting("dt_limit", list, None, "ssm_cfg"),
    },
    only={
        "layer": "Mamba2",
        "rms_norm": True,
        "rmsnorm": True,
        "norm_before_gate": False,
        "D_has_hdim": False,
        "d_ssm": None,
        "d_intermediate": 0,
        "attn_layer_idx": [],
    },
    keys={**mamba.RELEASED.keys, "head": "lm_head"},
    same=mamba.RELEASED.same,
)
