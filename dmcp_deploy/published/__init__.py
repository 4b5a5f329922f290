"""Channel plans that others have published, read into plans of networks known by name."""
