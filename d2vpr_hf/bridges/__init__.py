"""Bridges to other programs: hloc, databases, drawing programs and reports in one file."""
