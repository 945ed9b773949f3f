"""The judging side's commands, a file each, and the installed command `prismatic`."""
