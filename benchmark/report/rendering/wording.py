"""How quantities are written in captions and headings."""

NORM_SYMBOLS = {"linf": "L∞", "l2": "L2"}
JUDGED = (
    "Difference: ours − published, in points; ≈ if the published mean lies in our interval (95 % Wilson "
    "interval of our mean over our images, widened on both sides by our standard deviation over seeds, where "
    "there are several), ≠ if it does not. ≈: our images and seeds do not tell the two apart. ≠: they alone "
    "do not explain the difference; the published figure's own error is not counted."
)
"""What ≈ and ≠ beside a published figure mean: ``statistics.inside``."""


def budget(eps: float) -> str:
    """8/255 where that is what it is, else the decimal number."""
    levels = round(eps * 255)
    return f"{levels}/255" if levels < 64 and abs(eps * 255 - levels) < 1e-9 else f"{eps:.4g}"


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
