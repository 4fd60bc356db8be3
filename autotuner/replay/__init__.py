"""Journals as episodes: what was seen, wished, asked and answered in finished runs; and what another policy would wish."""
