"""`make stack`: the servers of a platform as plain supervised processes of this machine, all on loopback."""
