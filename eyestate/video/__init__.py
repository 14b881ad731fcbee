"""Videos to scores, events and plots: the faces in each frame are followed, and each person has a timeline."""
