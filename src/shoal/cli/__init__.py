"""The command line, `shoal`: each module a few commands, `main` puts them together."""
