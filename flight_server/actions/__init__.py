"""Custom Flight actions, self-describing: one module per family, one frozen spec per action."""
