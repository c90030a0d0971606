"""The HTTP edge: accepts changes, answers searches, shows where documents stand."""
