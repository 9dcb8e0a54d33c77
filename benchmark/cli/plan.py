"""`bench plan`: what a run would do, what of it is done, how long the rest takes."""

from pathlib import Path

from benchmark.cli import options


def plan(
    defense: options.Defenses = None,
    dataset: options.Datasets = None,
    norm: options.Norms = None,
    threat: options.Threats = None,
    attacks: options.Attacks = None,
    attack_set: options.AttackSet = None,
    curve: options.Curve = None,
    seeds: options.Seeds = None,
    n_examples: options.Examples = None,
    epochs: options.Epochs = None,
    train_limit: options.TrainLimit = None,
    width: options.Width = None,
    eps_linf: options.EpsLinf = None,
    eps_l2: options.EpsL2 = None,
    config: options.Config = None,
    out: options.Out = Path("results"),
    data_dir: options.DataDir = Path("data"),
    download: options.Download = False,
    device: options.Device = "auto",
    workers: options.Workers = 0,
) -> None:
    """Show the cells of a run, done and to do, with an estimate of the time from a timed batch."""
    from benchmark.protocol import load_protocol
    from benchmark.running import choose_device, prepare

    flags = options.overrides(
        defense=defense,
        dataset=dataset,
        norm=norm,
        threat=threat,
        attacks=attacks,
        attack_set=attack_set,
        curve=curve,
        seeds=seeds,
        n_examples=n_examples,
        epochs=epochs,
        train_limit=train_limit,
        width=width,
        eps_linf=eps_linf,
        eps_l2=eps_l2,
    )
    options.check_workers(workers)
    work = prepare(load_protocol(config, flags), out, data_dir, download=download)
    options.show_plan(work, choose_device(device), workers)
