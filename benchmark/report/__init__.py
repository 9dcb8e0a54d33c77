"""From records to results.csv, tables and figures."""
