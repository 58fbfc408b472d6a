"""Pictures of what an evaluation found."""
