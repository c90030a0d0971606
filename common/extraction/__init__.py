"""Text and block structure of documents, whatever format they came in."""
