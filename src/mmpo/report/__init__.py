"""Reports that open anywhere: one HTML file with its pictures inside."""

from mmpo.report.page import Page

__all__ = ["Page"]
