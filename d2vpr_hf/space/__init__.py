"""What the Gradio Space shows and guards, in plain functions: nothing here imports Gradio."""
