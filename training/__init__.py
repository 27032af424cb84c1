"""The two training stages, `distill.py` and `finetune.py`, and what only they need. See docs/training.md."""
