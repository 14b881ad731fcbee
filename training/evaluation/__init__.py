"""How good scores are: error rates, intervals, calibration, behaviour."""
