"""What a finished job answers: pure functions of plain data."""
