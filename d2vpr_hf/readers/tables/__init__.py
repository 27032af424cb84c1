"""Positions in tables: CSV files, and the columns of data sets."""
