"""What one pod carries, and what follows from it."""
