"""What the server costs beside doing the same work without it: ratios of one run."""
