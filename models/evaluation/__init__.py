"""How good detections are: agreement of two runs (F1), mAP against labels, intervals, differences of curves."""
