"""Comparison of finished runs: a table for the terminal and a page for the browser.

``load_runs`` reads run directories, ``comparison_table`` makes a rich table,
``write_report`` the HTML page. rich and matplotlib are imported when they are
needed, not before.
"""

from psrv.report.page import render_page, write_report
from psrv.report.runs import Run, default_output, load_runs
from psrv.report.table import comparison_note, comparison_table

__all__ = [
    "Run",
    "comparison_note",
    "comparison_table",
    "default_output",
    "load_runs",
    "render_page",
    "write_report",
]
