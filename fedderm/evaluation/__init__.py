"""What a model is worth at a site: counts that add up, intervals, calibration, thresholds."""
