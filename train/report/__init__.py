"""report.html: one file without outside parts that says what a detector would do on the line, and shows it."""

from train.report.page import write_report
from train.report.wording import headline

__all__ = ["headline", "write_report"]
