"""One self-contained HTML page of runs and studies: `imitkd report`.

::

    run and study directories -> reading -> sections (charts) -> page.html.j2 -> one file
"""

from imitkd.report.page import write_report

__all__ = ["write_report"]
