"""Data frames behind the charts; nothing here draws."""
