"""Pages, answers and upload rules of the Space as plain functions; only `spaces/app.py` imports Gradio."""
