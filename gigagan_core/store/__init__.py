"""The artifact store: fingerprints, manifests, resumable work."""
