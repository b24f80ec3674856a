"""Networks whose features images are compared by, each from a file on this machine."""
