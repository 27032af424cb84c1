"""Models of torch.hub repositories: their code runs once, in a process of its own, and exports a graph.

Nothing in this room imports foreign code. `archive.py` and `inspection.py` read its files, `child.py` runs in the process.
"""
