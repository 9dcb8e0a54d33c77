"""From records to what people read: results.csv and tables."""
