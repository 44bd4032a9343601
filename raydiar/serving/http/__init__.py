"""What answers HTTP: routes, who calls, what requests may hold, how errors are told."""
