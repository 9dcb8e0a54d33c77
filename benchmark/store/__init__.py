"""Files of a folder of results: how each kind is written, read and verified."""
