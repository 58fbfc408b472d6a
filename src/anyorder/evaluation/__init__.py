"""Evaluation: tables with intervals and paired tests, calibration, headroom."""
