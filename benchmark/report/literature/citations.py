"""What to cite for a row: BibTeX of the papers that its source names."""

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from robustness_bench.attacks.registry import SETS, attack_names, attack_preset
from robustness_bench.defenses.detectors.registry import system_presets
from robustness_bench.defenses.registry import defense_presets

_FILE = Path(__file__).parent / "references.bib"
_PAPER = re.compile(r"(?:arXiv:(\d{4}\.\d{4,5})|openreview ([\w-]{6,}))")
_NAMED = re.compile(r"eprint = \{([^}]*)\}|forum\?id=([\w-]+)")


@cache
def _entries() -> dict[str, str]:
    """Return the arXiv number, or OpenReview's id, of every paper -> its entry."""
    texts = [text.strip() for text in _FILE.read_text(encoding="utf-8").split("\n\n")]
    named = ((_NAMED.search(text), text) for text in texts)
    return {match[1] or match[2]: text for match, text in named if match}


def bibtex(source: str) -> str:
    """Return the entries of all papers that a source names (arXiv:…, openreview …) and that are known."""
    found = [first or second for first, second in _PAPER.findall(source)]
    return "\n\n".join(_entries()[each] for each in dict.fromkeys(found) if each in _entries())


def references(defenses: Collection[str], attacks: Collection[str]) -> str:
    """Return the entries of all papers behind defenses, detectors and attacks, each once.

    Args:
        defenses: names of defenses or of detectors; one that no registry has cites nothing.
        attacks: names of attacks, without what is done to their images afterwards.
    """
    sources = [preset.source for name, preset in defense_presets().items() if name in defenses]
    sources += [preset.source for name, preset in system_presets().items() if name in defenses]
    for name in attack_names():
        presets = (attack_preset(name, each) for each in SETS if name in attacks)
        sources += [preset.source for preset in presets if preset is not None]
    return bibtex("\n".join(sources))
