"""Getting rows into tables."""
