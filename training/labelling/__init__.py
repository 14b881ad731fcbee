"""Labels for crops that come without: clusterings, consensus, self-training, people."""
