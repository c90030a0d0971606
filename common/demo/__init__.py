"""The demo corpus: a small handbook of BloomWeaver and the later history of its documents."""
