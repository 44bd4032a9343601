"""Uploads: their bytes, and the records that say whose they are and until when."""
