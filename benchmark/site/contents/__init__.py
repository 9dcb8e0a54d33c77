"""What the pages say: read from the stores and computed, without a word of HTML."""
