"""What asv times over the project's history: see asv.conf.json."""
