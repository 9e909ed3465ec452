"""Writes the tables of docs/results.md and README.md and the figures from the runs in results/.

    python -m benchmarks.studies.page

Nothing is trained. A table stands between `<!-- table: NAME -->` and `<!-- end -->`, where NAME is
a function of `tables` with its arguments; the words around it are written by hand.
"""

import re

from benchmarks.studies import figures, tables
from benchmarks.studies.runs import ROOT

PAGE = ROOT / "docs" / "results.md"
PAGES = (PAGE, ROOT / "README.md")
BLOCK = re.compile(r"(<!-- table: (\w+)((?: \S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text):
    """The page with its tables made anew."""

    def table(match):
        begin, name, arguments, end = match.groups()
        return f"{begin}{getattr(tables, name)(*arguments.split())}\n{end}"

    return BLOCK.sub(table, text)


def main():
    for page in PAGES:
        page.write_text(rendered(page.read_text()))
    for name, draw in figures.FIGURES.items():
        figures.save(draw(), name)


if __name__ == "__main__":
    main()
