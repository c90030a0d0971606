"""What all adapters for AWS share: one session, its time-outs, and errors in words."""
