"""Answers to commands: one module per command family. Handlers do not import each other."""
