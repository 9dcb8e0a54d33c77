"""What detectors withstand and flag: lines, CSV files and tables."""
