"""Pictures and archives into records."""
