"""What plans cost, and the limits that a search keeps."""
