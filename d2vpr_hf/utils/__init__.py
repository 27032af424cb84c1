"""Helpers that every room may use: threads, files that appear whole or not at all, optional libraries."""
