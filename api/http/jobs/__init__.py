"""Work in the background: what can be asked for, the process that does it, and the thread that sees to it."""
