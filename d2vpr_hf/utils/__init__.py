"""Helpers for all parts of the library: threads, files that survive a crash, optional libraries."""
