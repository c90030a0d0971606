"""Everything that runs off a queue or a clock."""
