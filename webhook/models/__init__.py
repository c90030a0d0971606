"""The models of `common.api` with the limits of this service, and how bodies are read by them."""
