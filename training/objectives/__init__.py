"""Training objectives: losses, and the teachers' targets."""
