"""Where tasks run: this machine, a Ray cluster, a Slurm cluster."""
