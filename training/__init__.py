"""The three training stages, `pretrain.py`, `distill.py` and `finetune.py`, and their shared code. See docs/training.md."""
