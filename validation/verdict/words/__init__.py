"""The words of the verdict: reasons as headlines and sentences, numbers with their units, and the overall headline."""
