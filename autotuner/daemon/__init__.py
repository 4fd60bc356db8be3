"""The background service: discovers runs, reads sensors, decides, keeps the journal, and shows all of it."""
