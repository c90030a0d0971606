"""Where files land: one module per URL scheme."""
