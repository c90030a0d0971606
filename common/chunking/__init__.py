"""Cutting extracted text into the chunks that are embedded."""
