"""Numbers -> log files -> pictures. No torch."""
