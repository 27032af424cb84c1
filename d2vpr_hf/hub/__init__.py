"""What goes to the Hugging Face Hub and comes from it: models, indexes and Spaces, and their cards."""
