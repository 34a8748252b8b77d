"""The routes, a module for each thing that they are about; each has a `router`."""
