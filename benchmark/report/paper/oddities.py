"""Numbers of Hsu et al. 2018 that its other numbers or text contradict: shown as printed, and marked."""

from collections.abc import Sequence

from robustness_bench.benchmark.report.literature.published import Published

_SYSTEM, _UNION = "magnet", "mi-magnet"
_LARGEST = 31.2  # the largest gain ("up to") in the paper's abstract and text


def oddities(figures: Sequence[Published]) -> dict[Published, str]:
    """Return number of the union -> why it is impossible or contradicts the paper's text."""
    gains = {each: gain for each in figures if (gain := _gain(each, figures)) is not None}
    said = {}
    for figure, gain in gains.items():
        if gain < 0:
            said[figure] = (
                f"{-gain:.1f} below MagNet: more detectors cannot withstand less on the same images"
            )
        elif gain > _LARGEST:
            said[figure] = f"{gain:.1f} above MagNet; the paper's text says up to {_LARGEST}"
        elif not any(other for each, other in gains.items() if _row(each) == _row(figure)):
            said[figure] = (
                f"exactly MagNet's figure under every attack at κ = {figure.row}, though the detector flags "
                "0.5 % even of natural images"
            )
    return said


def _row(figure: Published) -> tuple[str, str]:
    return figure.table, figure.row


def _gain(figure: Published, figures: Sequence[Published]) -> float | None:
    """Return the union's gain over MagNet in points; None for MagNet itself."""
    if figure.group != _UNION:
        return None
    place = (figure.table, figure.dataset, _SYSTEM, figure.column, figure.row)
    (alone,) = [each for each in figures if (each.table, *each.place) == place]
    return round(figure.mean - alone.mean, 1)
