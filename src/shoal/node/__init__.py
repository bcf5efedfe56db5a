"""The shell around the core: runs its commands, owns the loops, holds the copies."""
