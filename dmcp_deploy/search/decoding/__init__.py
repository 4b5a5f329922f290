"""What exact decoding under limits is made of."""
