"""In-memory stand-ins behind ports; the conformance suites run on them as on the real ones."""
