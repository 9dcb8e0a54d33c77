"""What is to be done: the protocol, its tasks and their ids, what they cost."""
