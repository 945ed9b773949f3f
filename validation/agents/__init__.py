"""The tools of `prismatic mcp`: what an agent may ask about the runs of one folder, read-only and bounded."""
