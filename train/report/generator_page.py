"""The report of a generator: what it draws, and how its training went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.durable import write_file
from train.report.page import as_shown, environment, flat
from train.section import Section


def write_generator_report(
    path: Path,
    *,
    system: str,
    product: str,
    step: int,
    headline: str,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    sections: Sequence[Section],
) -> None:
    """Writes one HTML file that needs nothing else; whole, or the one that was there before."""
    page = (
        environment()
        .get_template("generator.html.j2")
        .render(
            system=system,
            product=product,
            step=step,
            headline=headline,
            sections=as_shown(sections),
            settings=list(flat(config)),
            provenance=list(flat(provenance)),
        )
    )
    write_file(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))
