"""Models, indexes and Spaces on the Hugging Face Hub: uploads and cards."""
