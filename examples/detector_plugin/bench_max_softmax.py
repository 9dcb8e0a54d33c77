"""What the plugin offers, as tables like those of detectors/presets.toml; imports no torch.

The entry point names the system, which --defense takes; its own detectors, and parts where it needs networks
of its own, stand beside it.
"""

PRESET = {
    "system": {
        "label": "Maximum softmax",
        "source": "Hendrycks and Gimpel 2017, arXiv:1610.02136",
        "adaptive": True,
        "detectors": {name: ["unsure"] for name in ("digits", "mnist", "cifar10")},
    },
    "detectors": {
        "unsure": {
            "detector": "bench_max_softmax_detector:Unsure",
            "label": "maximum softmax",
            "temperature": 1.0,
            "images": 0,
            "rate": {"digits": 0.02, "mnist": 0.005, "cifar10": 0.005},
        },
    },
}
