"""One HTML page of a run, in one file that needs no network."""

from .page import make_page, write_report

__all__ = ["make_page", "write_report"]
