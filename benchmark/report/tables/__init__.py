"""From lines to the tables of a run and of a comparison."""
