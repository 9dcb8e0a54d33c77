"""What a folder of results holds: how each kind of file is written, read and proved whole."""
