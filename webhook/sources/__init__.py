"""Sources: other systems' webhooks become changes, by verification and a mapping."""
