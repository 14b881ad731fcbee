"""Labels for crops that come without: clusterings, consensus, pseudo-labels."""
