"""What is kept: the database and its tables, API keys, blocking files under an event loop."""
