"""What the plugin offers; imports no torch, so planning stays instant."""

PRESET = {
    "network": "bench_mlp_network:MLP",
    "summary": "two hidden layers of 8 × width units (Madry et al. 2018 use such ones on MNIST)",
}
