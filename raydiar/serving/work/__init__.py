"""What workers do: take jobs, have them done, send webhooks, delete what has expired."""
