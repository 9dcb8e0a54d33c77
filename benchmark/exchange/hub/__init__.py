"""Results as repositories of the Hugging Face hub: a model each, and the records as a data set."""
