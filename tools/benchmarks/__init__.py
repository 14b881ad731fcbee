"""Eye-state models side by side: how good each of them is, and what it costs."""
