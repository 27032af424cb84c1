"""What training minimises: losses, and the targets that teachers give."""
