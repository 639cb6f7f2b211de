"""Rate against accuracy: intermediate data and pictures, measured on the same frames by the same model."""
