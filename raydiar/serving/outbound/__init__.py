"""What the server opens for clients: the wall against its own network, fetching, webhooks."""
