"""Data sets: reading, splitting, labels, augmentation, generated eyes."""
