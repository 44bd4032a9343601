"""Networks over recordings: windows, batches, and what they say of local speakers."""
