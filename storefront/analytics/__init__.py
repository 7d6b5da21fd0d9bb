"""What shoppers do, counted."""
