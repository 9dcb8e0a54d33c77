"""What the plugin offers, with the keys of presets.toml; imports no torch, so planning stays instant."""

PRESET = {
    "attack": "bench_fgsm_attack:FGSM",
    "label": "FGSM",
    "norms": ["linf", "l2"],
    "kind": "budget",
    "strict": {
        "source": "Goodfellow et al. 2015, arXiv:1412.6572, section 4",
        "step": 1.0,
    },
}
