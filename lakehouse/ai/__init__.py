"""Models: vectors of texts, generated text and orders of texts, by a built-in local model or a service."""
