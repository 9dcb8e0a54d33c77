"""A stranger's code, confined to a process that can harm nothing and is believed in nothing."""
