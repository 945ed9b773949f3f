"""Callbacks for other people's training loops; each module needs its library and nothing imports it unasked."""
