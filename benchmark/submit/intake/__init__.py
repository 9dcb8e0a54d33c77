"""A submission's files on their way in: read out of a folder or an archive, believed in nothing."""
